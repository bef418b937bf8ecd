// SPDX-License-Identifier: Apache-2.0
//
// pack VMLINUX OUTPUT: rewrite an x86-64 vmlinux so that it holds only what has to
// be loaded.
//
// The linker aligns the parts of a kernel to 2 MiB, in memory (large pages; page
// table isolation keeps the entry code in one of its own) and so in the file: a
// third of it is padding, which a VMM would copy and the host would pay memory for.
// pack splits each loadable segment where at least GAP pages are blank (all bytes 0,
// or 0xcc, the filler between functions) and leaves those out. Guest memory there
// is then 0, as any memory of a new VM. Nothing else changes: the addresses, the
// entry points and the notes stay, and every segment still starts at a multiple of
// the page size in the file, so that it can be mapped. Section headers are dropped.

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, GAP = 16, MAX_SEGMENTS = 64 };

struct segments {
	Elf64_Phdr header[MAX_SEGMENTS];
	const uint8_t *data[MAX_SEGMENTS];
	unsigned int count;
};

static void die(const char *what, const char *object)
{
	fprintf(stderr, "pack: error: %s %s\n", what, object);
	exit(1);
}

static uint8_t *read_file(const char *path, size_t *size)
{
	FILE *in = fopen(path, "rb");
	uint8_t *data;
	long end;

	if (!in || fseek(in, 0, SEEK_END) != 0 || (end = ftell(in)) < 0)
		die("cannot read", path);
	rewind(in);
	data = malloc((size_t)end + PAGE);
	if (!data || fread(data, 1, (size_t)end, in) != (size_t)end)
		die("cannot read", path);
	fclose(in);
	*size = (size_t)end;
	return data;
}

static bool is_blank(const uint8_t *page, size_t length)
{
	for (size_t i = 1; i < length; i++)
		if (page[i] != page[0])
			return false;
	return page[0] == 0 || page[0] == 0xcc;
}

static void add(struct segments *out, Elf64_Phdr header, const uint8_t *data)
{
	if (out->count == MAX_SEGMENTS)
		die("too many segments in", "the kernel");
	out->header[out->count] = header;
	out->data[out->count++] = data;
}

// The part [from, to) of a segment, as a segment. Only the last part has the memory
// beyond the file's bytes (.bss).
static void add_part(struct segments *out, const Elf64_Phdr *whole, const uint8_t *data,
		     uint64_t from, uint64_t to)
{
	Elf64_Phdr part = *whole;

	part.p_vaddr += from;
	part.p_paddr += from;
	part.p_filesz = to - from;
	part.p_memsz = to == whole->p_filesz ? whole->p_memsz - from : to - from;
	part.p_align = PAGE;
	add(out, part, data + from);
}

static void split(struct segments *out, const Elf64_Phdr *whole, const uint8_t *data)
{
	uint64_t start = 0, blank_from = 0, size = whole->p_filesz;
	bool in_blank = false;

	if (whole->p_paddr % PAGE != 0)
		die("a segment does not start at a page in", "the kernel");
	for (uint64_t at = 0; at < size; at += PAGE) {
		bool blank = is_blank(data + at, size - at < PAGE ? size - at : PAGE);

		if (blank && !in_blank) {
			blank_from = at;
		} else if (!blank && in_blank && at - blank_from >= GAP * PAGE) {
			if (blank_from > start)
				add_part(out, whole, data, start, blank_from);
			start = at;
		}
		in_blank = blank;
	}
	add_part(out, whole, data, start, size);
}

static void place(struct segments *out)
{
	uint64_t offset = PAGE;

	for (unsigned int i = 0; i < out->count; i++) {
		if (out->header[i].p_type != PT_LOAD)
			continue;
		out->header[i].p_offset = offset;
		offset += (out->header[i].p_filesz + PAGE - 1) / PAGE * PAGE;
	}
	// Notes lie inside a loaded segment.
	for (unsigned int i = 0; i < out->count; i++) {
		Elf64_Phdr *note = &out->header[i];

		for (unsigned int j = 0; note->p_type == PT_NOTE && j < out->count; j++) {
			const Elf64_Phdr *load = &out->header[j];

			if (load->p_type == PT_LOAD && note->p_vaddr >= load->p_vaddr &&
			    note->p_vaddr + note->p_filesz <= load->p_vaddr + load->p_filesz)
				note->p_offset = load->p_offset + note->p_vaddr - load->p_vaddr;
		}
	}
}

static void write_file(const char *path, Elf64_Ehdr elf, const struct segments *out)
{
	FILE *file = fopen(path, "wb");
	bool failed = !file;

	elf.e_phoff = sizeof(elf);
	elf.e_phnum = (Elf64_Half)out->count;
	elf.e_shoff = 0;
	elf.e_shnum = 0;
	elf.e_shstrndx = SHN_UNDEF;
	failed = failed || fwrite(&elf, sizeof(elf), 1, file) != 1 ||
		 fwrite(out->header, sizeof(out->header[0]), out->count, file) != out->count;
	for (unsigned int i = 0; !failed && i < out->count; i++)
		if (out->header[i].p_type == PT_LOAD)
			failed = fseek(file, (long)out->header[i].p_offset, SEEK_SET) != 0 ||
				 fwrite(out->data[i], 1, out->header[i].p_filesz, file) !=
					 out->header[i].p_filesz;
	if (failed || fclose(file) != 0)
		die("cannot write", path);
}

int main(int argc, char **argv)
{
	static struct segments out;
	size_t size;
	uint8_t *data;
	Elf64_Ehdr elf;

	if (argc != 3)
		die("usage:", "pack VMLINUX OUTPUT");
	data = read_file(argv[1], &size);
	if (size < sizeof(elf) || memcmp(data, ELFMAG, SELFMAG) != 0 || data[EI_CLASS] != ELFCLASS64)
		die("not a 64-bit ELF file:", argv[1]);
	memcpy(&elf, data, sizeof(elf));
	for (unsigned int i = 0; i < elf.e_phnum; i++) {
		Elf64_Phdr header;

		memcpy(&header, data + elf.e_phoff + i * sizeof(header), sizeof(header));
		if (header.p_offset + header.p_filesz > size)
			die("truncated:", argv[1]);
		if (header.p_type == PT_LOAD)
			split(&out, &header, data + header.p_offset);
		else
			add(&out, header, NULL);
	}
	if (sizeof(elf) + out.count * sizeof(out.header[0]) > PAGE)
		die("too many segments in", argv[1]);
	place(&out);
	write_file(argv[2], elf, &out);
	return 0;
}
