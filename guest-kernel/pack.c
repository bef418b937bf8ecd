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
// the page size in the file, so that it can be mapped. Of the section headers those of
// .text and .rodata stay, one for each part of a segment that has some of it: a VMM
// learns from them which pages the kernel never gives to other uses.

#include <elf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, GAP = 16, MAX_SEGMENTS = 64, MAX_SECTIONS = 2 * MAX_SEGMENTS + 2 };

// The names of the sections that are written: offsets into SECTION_NAMES.
static const char SECTION_NAMES[] = "\0.text\0.rodata\0.shstrtab";
enum { NAME_TEXT = 1, NAME_RODATA = 7, NAME_STRINGS = 15 };

struct segments {
	Elf64_Phdr header[MAX_SEGMENTS];
	const uint8_t *data[MAX_SEGMENTS];
	unsigned int count;
};

struct sections {
	Elf64_Shdr header[MAX_SECTIONS];
	Elf64_Half count;
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

// Adds the headers of one section of the kernel, in the segments where its bytes went.
static void add_section(struct sections *sections, const struct segments *out, const uint8_t *kernel,
			const Elf64_Shdr *whole, Elf64_Word name)
{
	for (unsigned int i = 0; i < out->count; i++) {
		const Elf64_Phdr *load = &out->header[i];
		uint64_t from, to, section_end = whole->sh_offset + whole->sh_size;
		Elf64_Shdr *part = &sections->header[sections->count];

		if (load->p_type != PT_LOAD)
			continue;
		from = (uint64_t)(out->data[i] - kernel);
		to = from + load->p_filesz < section_end ? from + load->p_filesz : section_end;
		from = from > whole->sh_offset ? from : whole->sh_offset;
		if (from >= to)
			continue;
		if (sections->count == MAX_SECTIONS - 1)
			die("too many sections in", "the kernel");
		*part = *whole;
		part->sh_name = name;
		part->sh_addr = whole->sh_addr + (from - whole->sh_offset);
		part->sh_offset = load->p_offset + (from - (uint64_t)(out->data[i] - kernel));
		part->sh_size = to - from;
		part->sh_link = part->sh_info = 0;
		sections->count++;
	}
}

// The first bytes after the last segment.
static uint64_t end_of(const struct segments *out)
{
	uint64_t end = PAGE;

	for (unsigned int i = 0; i < out->count; i++) {
		const Elf64_Phdr *load = &out->header[i];

		if (load->p_type == PT_LOAD && load->p_offset + load->p_filesz > end)
			end = load->p_offset + load->p_filesz;
	}
	return (end + 7) / 8 * 8;
}

static void collect_sections(struct sections *sections, const struct segments *out,
			     const uint8_t *kernel, size_t size, const Elf64_Ehdr *elf)
{
	Elf64_Shdr strings = { .sh_name = NAME_STRINGS, .sh_type = SHT_STRTAB, .sh_addralign = 1,
			       .sh_offset = end_of(out), .sh_size = sizeof(SECTION_NAMES) };
	Elf64_Shdr header, names;

	if (elf->e_shoff + (uint64_t)elf->e_shnum * sizeof(header) > size || elf->e_shstrndx >= elf->e_shnum)
		die("no section headers in", "the kernel");
	memcpy(&names, kernel + elf->e_shoff + elf->e_shstrndx * sizeof(names), sizeof(names));
	sections->count = 1; // The first one is empty.
	for (Elf64_Half i = 0; i < elf->e_shnum; i++) {
		const char *name;

		memcpy(&header, kernel + elf->e_shoff + i * sizeof(header), sizeof(header));
		if (names.sh_offset + header.sh_name >= size)
			die("truncated:", "section names of the kernel");
		name = (const char *)kernel + names.sh_offset + header.sh_name;
		if (strcmp(name, SECTION_NAMES + NAME_TEXT) == 0)
			add_section(sections, out, kernel, &header, NAME_TEXT);
		else if (strcmp(name, SECTION_NAMES + NAME_RODATA) == 0)
			add_section(sections, out, kernel, &header, NAME_RODATA);
	}
	if (sections->count == 1)
		die("no .text or .rodata in", "the kernel");
	sections->header[sections->count++] = strings;
}

static void write_file(const char *path, Elf64_Ehdr elf, const struct segments *out,
		       const struct sections *sections)
{
	FILE *file = fopen(path, "wb");
	bool failed = !file;
	long names = (long)end_of(out);

	elf.e_phoff = sizeof(elf);
	elf.e_phnum = (Elf64_Half)out->count;
	elf.e_shoff = (uint64_t)names + (sizeof(SECTION_NAMES) + 7) / 8 * 8;
	elf.e_shnum = sections->count;
	elf.e_shstrndx = (Elf64_Half)(sections->count - 1);
	failed = failed || fwrite(&elf, sizeof(elf), 1, file) != 1 ||
		 fwrite(out->header, sizeof(out->header[0]), out->count, file) != out->count;
	for (unsigned int i = 0; !failed && i < out->count; i++)
		if (out->header[i].p_type == PT_LOAD)
			failed = fseek(file, (long)out->header[i].p_offset, SEEK_SET) != 0 ||
				 fwrite(out->data[i], 1, out->header[i].p_filesz, file) !=
					 out->header[i].p_filesz;
	failed = failed || fseek(file, names, SEEK_SET) != 0 ||
		 fwrite(SECTION_NAMES, sizeof(SECTION_NAMES), 1, file) != 1 ||
		 fseek(file, (long)elf.e_shoff, SEEK_SET) != 0 ||
		 fwrite(sections->header, sizeof(sections->header[0]), sections->count, file) !=
			 sections->count;
	if (failed || fclose(file) != 0)
		die("cannot write", path);
}

int main(int argc, char **argv)
{
	static struct segments out;
	static struct sections sections;
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
	collect_sections(&sections, &out, data, size, &elf);
	write_file(argv[2], elf, &out, &sections);
	return 0;
}
