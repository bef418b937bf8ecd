//! Reads the headers of an ELF kernel, strictly, and plans how its bytes get into memory.
//!
//! `linux-loader`'s loader checks neither class, machine, overlap nor bounds, and copies everything; so only
//! its definitions of the ELF structures are used here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
use vm_memory::ByteValued;

use crate::arch::x86_64::layout::{self, PAGE_SIZE};

/// What every ELF file starts with.
const MAGIC: [u8; 4] = *b"\x7fELF";
/// What follows the magic: class 64-bit, data little-endian.
const CLASS: [u8; 2] = [2, 1];
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;
/// Linux has 5 program headers and some 30 sections; more than this is not a kernel.
const MAX_HEADERS: u16 = 256;
/// Section names are short; a kernel's take some hundred bytes.
const MAX_NAMES: u64 = 64 * 1024;
/// Bytes of a section header; `linux-loader` has no structure for it.
const SECTION_HEADER_SIZE: usize = 64;
/// The section whose pages the kernel keeps for ever, writes to few of, and never hands to a device.
const CODE: &[u8] = b".text";
/// How much of the code is copied: the first huge page has what a boot runs most, and patches most.
const COPIED_CODE: u64 = 2 << 20;

/// A file is no kernel that can be booted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ElfError {
    #[error("cannot read it at offset {offset:#x}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("not an ELF file; an uncompressed kernel (vmlinux) is needed")]
    NotElf,
    #[error("not a 64-bit little-endian ELF file")]
    Class,
    #[error("not for x86-64 but for ELF machine {0}")]
    Machine(u16),
    #[error("not an executable but ELF type {0}")]
    Type(u16),
    #[error("its ELF program headers are missing or malformed")]
    ProgramHeaders,
    #[error("its segment at {address:#x} reaches beyond the end of the file")]
    Truncated { address: u64 },
    #[error(
        "its segment at {address:#x} needs memory from {:#x} to {memory_end:#x}; give the guest more",
        layout::HIGH_MEMORY
    )]
    OutsideMemory { address: u64, memory_end: u64 },
    #[error("its segments at {first:#x} and {second:#x} overlap")]
    Overlap { first: u64, second: u64 },
    #[error("its entry {0:#x} is in none of its segments, or beyond the first GiB")]
    Entry(u64),
}

/// A part of the kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Guest-physical address.
    pub(crate) address: u64,
    /// Where its bytes stand in the file.
    pub(crate) offset: u64,
    /// How many of them.
    pub(crate) file_size: u64,
    /// Bytes in memory; those beyond `file_size` are zero.
    pub(crate) memory_size: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}

/// A kernel's headers, checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// Guest-physical address of the first instruction.
    pub(crate) entry: u64,
    /// Sorted by address, without overlap, all inside guest memory.
    pub(crate) segments: Vec<Segment>,
    /// Parts of the file that no device ever sees, to be mapped.
    pub(crate) code: Vec<Code>,
}

/// A part of the file that can be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code {
    /// Where its bytes stand in the file.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) size: u64,
}

/// Reads and checks the headers of `file` for a guest whose low memory ends at `memory_end`.
pub(crate) fn read_image(file: &File, memory_end: u64) -> Result<Image, ElfError> {
    let header: Elf64_Ehdr = read_struct(file, 0)?;
    check_header(&header)?;
    let file_size = file.metadata().map_err(|source| ElfError::Read { offset: 0, source })?.len();
    let segments = read_segments(file, &header, file_size, memory_end)?;
    let entry = header.e_entry;
    let enters = |segment: &Segment| entry >= segment.address && entry - segment.address < segment.file_size;
    if !segments.iter().any(enters) || entry >= layout::IDENTITY_MAPPED {
        return Err(ElfError::Entry(entry));
    }
    // A kernel without section names boots as well, just with more copying.
    let code = read_code(file, &header).unwrap_or_default();
    Ok(Image { entry, segments, code })
}

fn check_header(header: &Elf64_Ehdr) -> Result<(), ElfError> {
    let Some(class) = header.e_ident.strip_prefix(&MAGIC) else { return Err(ElfError::NotElf) };
    if !class.starts_with(&CLASS) {
        return Err(ElfError::Class);
    }
    if header.e_machine != MACHINE_X86_64 {
        return Err(ElfError::Machine(header.e_machine));
    }
    if header.e_type != TYPE_EXECUTABLE {
        return Err(ElfError::Type(header.e_type));
    }
    let count_fits = (1..=MAX_HEADERS).contains(&header.e_phnum);
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() || !count_fits {
        return Err(ElfError::ProgramHeaders);
    }
    Ok(())
}

fn read_segments(
    file: &File,
    header: &Elf64_Ehdr,
    file_size: u64,
    memory_end: u64,
) -> Result<Vec<Segment>, ElfError> {
    let mut segments = Vec::new();
    for index in 0..u64::from(header.e_phnum) {
        let offset = (index * size_of::<Elf64_Phdr>() as u64).checked_add(header.e_phoff);
        let program: Elf64_Phdr = read_struct(file, offset.ok_or(ElfError::ProgramHeaders)?)?;
        if program.p_type != PT_LOAD || program.p_memsz == 0 {
            continue;
        }
        let address = program.p_paddr;
        if program.p_filesz > program.p_memsz {
            return Err(ElfError::ProgramHeaders);
        }
        let file_end = program.p_offset.checked_add(program.p_filesz);
        if file_end.is_none_or(|end| end > file_size) {
            return Err(ElfError::Truncated { address });
        }
        let end = address.checked_add(program.p_memsz);
        if address < layout::HIGH_MEMORY || end.is_none_or(|end| end > memory_end) {
            return Err(ElfError::OutsideMemory { address, memory_end });
        }
        segments.push(Segment {
            address,
            offset: program.p_offset,
            file_size: program.p_filesz,
            memory_size: program.p_memsz,
        });
    }
    segments.sort_unstable_by_key(|segment| segment.address);
    for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
        if segment.end() > next.address {
            return Err(ElfError::Overlap { first: segment.address, second: next.address });
        }
    }
    Ok(segments)
}

/// Finds the sections named [`CODE`] and leaves out what is to be copied of them; nothing if the file has no usable
/// section table.
fn read_code(file: &File, header: &Elf64_Ehdr) -> Option<Vec<Code>> {
    if usize::from(header.e_shentsize) != SECTION_HEADER_SIZE || header.e_shnum > MAX_HEADERS {
        return None;
    }
    let section = |index: u16| -> Option<Section> {
        let offset = u64::from(index).checked_mul(SECTION_HEADER_SIZE as u64)?;
        Section::read(file, offset.checked_add(header.e_shoff)?)
    };
    let names_section = section(header.e_shstrndx)?;
    if names_section.size > MAX_NAMES {
        return None;
    }
    let mut names = vec![0; usize::try_from(names_section.size).ok()?];
    file.read_exact_at(&mut names, names_section.offset).ok()?;
    let mut found = Vec::new();
    let mut copied = COPIED_CODE;
    for index in 0..header.e_shnum {
        let section = section(index)?;
        let name = names.get(usize::try_from(section.name).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        if name == CODE {
            let skipped = copied.min(section.size);
            copied -= skipped;
            let offset = section.offset.checked_add(skipped)?;
            found.push(Code { offset, size: section.size - skipped });
        }
    }
    Some(found)
}

/// The fields of a section header that are needed: ELF-64 object file format, figure 3.
struct Section {
    name: u32,
    offset: u64,
    size: u64,
}

impl Section {
    fn read(file: &File, offset: u64) -> Option<Self> {
        let mut bytes = [0; SECTION_HEADER_SIZE];
        file.read_exact_at(&mut bytes, offset).ok()?;
        let wide = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self { name: u32::from_le_bytes(*bytes.first_chunk()?), offset: wide(24)?, size: wide(32)? })
    }
}

fn read_struct<T: ByteValued + Default>(file: &File, offset: u64) -> Result<T, ElfError> {
    let mut value = T::default();
    match file.read_exact_at(value.as_mut_slice(), offset) {
        Ok(()) => Ok(value),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && offset == 0 => Err(ElfError::NotElf),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ElfError::ProgramHeaders),
        Err(source) => Err(ElfError::Read { offset, source }),
    }
}

/// How a stretch of the kernel's file gets into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Copied.
    Copy,
    /// The file itself is mapped, copy-on-write.
    Map,
}

/// A stretch of a segment's bytes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) placement: Placement,
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// Cuts the bytes of `segment` into whole pages that can be mapped, because they belong to one of
/// `code`, and the rest that must be copied. The pieces are in order and cover the segment's bytes once.
pub(crate) fn plan(segment: &Segment, code: &[Code]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut done = segment.offset;
    let end = segment.offset + segment.file_size;
    let mut push = |placement, from: u64, to: u64| {
        if from < to {
            let address = segment.address + (from - segment.offset);
            pieces.push(Piece { placement, address, offset: from, size: to - from });
        }
    };
    let congruent = segment.address % PAGE_SIZE == segment.offset % PAGE_SIZE;
    let mut code: Vec<_> = if congruent { code.to_vec() } else { Vec::new() };
    code.sort_unstable_by_key(|code| code.offset);
    for Code { offset, size } in code {
        let from = offset.max(done).checked_next_multiple_of(PAGE_SIZE).unwrap_or(end);
        let to = offset.saturating_add(size).min(end) / PAGE_SIZE * PAGE_SIZE;
        if from < to {
            push(Placement::Copy, done, from);
            push(Placement::Map, from, to);
            done = to;
        }
    }
    push(Placement::Copy, done, end);
    pieces
}

#[cfg(test)]
pub(crate) mod tests;
