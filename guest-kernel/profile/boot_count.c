// SPDX-License-Identifier: Apache-2.0
//
// boot_count: a QEMU TCG plugin that counts exactly what a bare boot costs.
//
// From reset to the first instruction of PID 1 it counts the guest instructions,
// the 4 KiB pages of guest memory that were fetched from, read or written, and
// the instructions that each piece of kernel code ran. `guest-kernel/measure`
// compiles it, runs it and reads its report. QEMU must run with `thread=single`:
// nothing here is locked.
//
// Arguments: entry=ADDR  virtual address of PID 1's first instruction
//            ram=BYTES   size of guest memory, less than 3 GiB
//            out=FILE    the report, one record a line: "firmware N", "kernel N"
//                        (instructions), "pages N", "pages_written N",
//                        "pages_fetched N", "cpuid N", "msr N", "port N" (executed
//                        instructions that leave a guest of KVM, or may), and
//                        "ADDRESS at N" (instructions in the 16 bytes of code at
//                        ADDRESS, 16 hexadecimal digits), "ADDRESS exits N"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// What is used of QEMU's plugin interface, version 1 (QEMU 4.2 to 8.2). Debian
// packages no header for it.
typedef uint64_t plugin_id;
typedef uint32_t mem_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_hwaddr;
enum { NO_REGS = 0, MEM_READ_WRITE = 3, INLINE_ADD_U64 = 0 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id,
	void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
	void (*)(unsigned int, mem_info, uint64_t, void *), int, int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
const uint8_t *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *);
bool qemu_plugin_mem_is_store(mem_info);
struct qemu_plugin_hwaddr *qemu_plugin_get_hwaddr(mem_info, uint64_t);
bool qemu_plugin_hwaddr_is_io(const struct qemu_plugin_hwaddr *);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct qemu_plugin_hwaddr *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { PAGE_SHIFT = 12, BLOCK_SHIFT = 4, BUCKET_BITS = 20 };
// Where the kernel maps its own image (__START_KERNEL_map).
static const uint64_t KERNEL_MAP = 0xffffffff80000000;
enum { READ = 1, WRITTEN = 2, FETCHED = 4 };

// One counter for each 16 bytes of code, in an open hash table.
struct block {
	bool used;
	uint64_t address;
	uint64_t instructions;
	uint64_t exits;
};

// Instructions that a hypervisor sees.
enum exit_kind { CPUID, MSR, PORT, EXIT_KINDS, NO_EXIT = EXIT_KINDS };
static const char *const exit_names[EXIT_KINDS] = { "cpuid", "msr", "port" };
static uint64_t exits[EXIT_KINDS];

static struct block blocks[1 << BUCKET_BITS];
static uint64_t entry;
static uint64_t ram_bytes;
static uint8_t *page_use;
static const char *out_path;
// Host address of guest-physical 0; known from the kernel's first instruction on,
// which runs with paging off.
static uintptr_t ram_base;
static uint64_t firmware_instructions;

static struct block *block_of(uint64_t vaddr)
{
	uint64_t number = vaddr >> BLOCK_SHIFT;
	uint64_t slot = number * 0x9e3779b97f4a7c15u >> (64 - BUCKET_BITS);

	while (blocks[slot].used && blocks[slot].address != number << BLOCK_SHIFT)
		slot = (slot + 1) % (1 << BUCKET_BITS);
	blocks[slot].used = true;
	blocks[slot].address = number << BLOCK_SHIFT;
	return &blocks[slot];
}

static enum exit_kind exit_kind_of(const struct qemu_plugin_insn *insn)
{
	const uint8_t *code = qemu_plugin_insn_data(insn);
	size_t size = qemu_plugin_insn_size(insn);

	// Prefixes: operand size (outw), repeat (rep outs).
	while (size > 1 && (*code == 0x66 || *code == 0xf2 || *code == 0xf3))
		code++, size--;
	if (size == 2 && code[0] == 0x0f && code[1] == 0xa2)
		return CPUID;
	if (size == 2 && code[0] == 0x0f && (code[1] == 0x30 || code[1] == 0x32))
		return MSR;
	if ((size == 2 && code[0] >= 0xe4 && code[0] <= 0xe7) ||
	    (size == 1 && ((code[0] >= 0xec && code[0] <= 0xef) ||
			   (code[0] >= 0x6c && code[0] <= 0x6f))))
		return PORT;
	return NO_EXIT;
}

static uint64_t instructions_so_far(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < 1 << BUCKET_BITS; i++)
		sum += blocks[i].instructions;
	return sum;
}

static void note_page(uint64_t physical, uint8_t use)
{
	if (physical < ram_bytes)
		page_use[physical >> PAGE_SHIFT] |= use;
}

static void on_access(unsigned int vcpu, mem_info info, uint64_t vaddr, void *data)
{
	struct qemu_plugin_hwaddr *where = qemu_plugin_get_hwaddr(info, vaddr);

	(void)vcpu, (void)data;
	if (where && !qemu_plugin_hwaddr_is_io(where))
		note_page(qemu_plugin_hwaddr_phys_addr(where),
			  qemu_plugin_mem_is_store(info) ? WRITTEN : READ);
}

// Before it turns paging on the kernel runs at its physical address.
static uint64_t linked_address(uint64_t address)
{
	return address >= 1 << 20 && address < 1ul << 31 ? address + KERNEL_MAP : address;
}

static void report(void)
{
	uint64_t pages = 0, written = 0, fetched = 0;
	FILE *out = fopen(out_path, "w");

	if (!out) {
		perror(out_path);
		exit(1);
	}
	fprintf(out, "firmware %lu\n", firmware_instructions);
	fprintf(out, "kernel %lu\n", instructions_so_far() - firmware_instructions);
	for (uint64_t i = 0; i < ram_bytes >> PAGE_SHIFT; i++) {
		pages += page_use[i] != 0;
		written += (page_use[i] & WRITTEN) != 0;
		fetched += (page_use[i] & FETCHED) != 0;
	}
	fprintf(out, "pages %lu\npages_written %lu\npages_fetched %lu\n", pages, written, fetched);
	for (size_t i = 0; i < EXIT_KINDS; i++)
		fprintf(out, "%s %lu\n", exit_names[i], exits[i]);
	for (size_t i = 0; i < 1 << BUCKET_BITS; i++)
		if (blocks[i].instructions) {
			uint64_t address = linked_address(blocks[i].address);

			fprintf(out, "%016lx at %lu\n", address, blocks[i].instructions);
			if (blocks[i].exits)
				fprintf(out, "%016lx exits %lu\n", address, blocks[i].exits);
		}
	if (fclose(out) != 0) {
		perror(out_path);
		exit(1);
	}
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb)
{
	uint64_t start = qemu_plugin_tb_vaddr(tb);

	(void)id;
	if (start == entry) {
		report();
		_Exit(0);
	}
	if (!ram_base && start >= 1 << 20 && start < ram_bytes) {
		void *host = qemu_plugin_insn_haddr(qemu_plugin_tb_get_insn(tb, 0));

		ram_base = (uintptr_t)host - start;
		firmware_instructions = instructions_so_far();
		// Reads of the firmware are not the kernel's.
		memset(page_use, 0, ram_bytes >> PAGE_SHIFT);
	}
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		struct block *block = block_of(qemu_plugin_insn_vaddr(insn));
		enum exit_kind kind = exit_kind_of(insn);

		qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64,
							   &block->instructions, 1);
		qemu_plugin_register_vcpu_mem_cb(insn, on_access, NO_REGS, MEM_READ_WRITE, NULL);
		if (ram_base && kind != NO_EXIT) {
			qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &exits[kind], 1);
			qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64,
								   &block->exits, 1);
		}
		if (ram_base)
			note_page((uintptr_t)qemu_plugin_insn_haddr(insn) - ram_base, FETCHED);
	}
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "entry=", 6) == 0)
			entry = strtoull(argv[i] + 6, NULL, 0);
		else if (strncmp(argv[i], "ram=", 4) == 0)
			ram_bytes = strtoull(argv[i] + 4, NULL, 0);
		else if (strncmp(argv[i], "out=", 4) == 0)
			out_path = strdup(argv[i] + 4);
	}
	page_use = calloc(ram_bytes >> PAGE_SHIFT, 1);
	if (!entry || !ram_bytes || !out_path || !page_use) {
		fprintf(stderr, "boot_count: entry=, ram= and out= are required\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}
