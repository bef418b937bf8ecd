//! Hostile and odd ELF files, and what a plan must always be.

use std::io::{Seek, Write};

use super::*;

const MEMORY_END: u64 = 64 << 20;

/// A kernel's file, to be spoilt.
#[derive(Clone)]
pub(crate) struct KernelFile {
    pub(crate) bytes: Vec<u8>,
}

impl KernelFile {
    /// Two segments: code and constants at 16 MiB, of the code one page and a bit more than is copied, then data.
    pub(crate) fn typical() -> Self {
        let mut file = Self { bytes: vec![0; 0x20_8000] };
        for (index, byte) in file.bytes.iter_mut().enumerate() {
            *byte = u8::try_from(index / 16 % 251).unwrap();
        }
        file.write_at(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        file.write_at(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
        file.write_at(24, &0x100_0000_u64.to_le_bytes()); // e_entry
        file.write_at(32, &64_u64.to_le_bytes()); // e_phoff
        file.write_at(40, &0x400_u64.to_le_bytes()); // e_shoff
        file.write_at(52, &[64, 0, 56, 0, 2, 0, 64, 0, 4, 0, 3, 0]);
        file.segment(0, 0x1000, 0x100_0000, 0x20_4000, 0x20_4000);
        file.segment(1, 0x20_5000, 0x140_0000, 0x800, 0x2000);
        file.write_at(0x800, b"\0.text\0.rodata\0.shstrtab\0");
        file.write_at(0x400, &[0; 64]);
        file.section(1, 1, 0x1000, 0x20_1004);
        file.section(2, 7, 0x20_3000, 0x1004);
        file.section(3, 15, 0x800, 25);
        file
    }

    pub(crate) fn write_at(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn segment(&mut self, index: usize, offset: u64, address: u64, file_size: u64, memory_size: u64) {
        let at = 64 + index * 56;
        self.write_at(at, &[1, 0, 0, 0, 5, 0, 0, 0]);
        for (field, value) in [offset, 0, address, file_size, memory_size, 0x1000].iter().enumerate() {
            self.write_at(at + 8 + field * 8, &value.to_le_bytes());
        }
    }

    fn section(&mut self, index: usize, name: u32, offset: u64, size: u64) {
        let at = 0x400 + index * 64;
        self.write_at(at, &name.to_le_bytes());
        self.write_at(at + 24, &offset.to_le_bytes());
        self.write_at(at + 32, &size.to_le_bytes());
    }

    pub(crate) fn file(&self) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&self.bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn read(&self) -> Result<Image, ElfError> {
        read_image(&self.file(), MEMORY_END)
    }
}

#[test]
fn a_kernel_is_read() {
    let image = KernelFile::typical().read().unwrap();
    assert_eq!(
        image,
        Image {
            entry: 0x100_0000,
            segments: vec![
                Segment { address: 0x100_0000, offset: 0x1000, file_size: 0x20_4000, memory_size: 0x20_4000 },
                Segment { address: 0x140_0000, offset: 0x20_5000, file_size: 0x800, memory_size: 0x2000 },
            ],
            code: vec![Code { offset: 0x20_1000, size: 0x1004 }],
        }
    );
    assert_eq!(
        plan(&image.segments[0], &image.code),
        [
            Piece { placement: Placement::Copy, address: 0x100_0000, offset: 0x1000, size: 0x20_0000 },
            Piece { placement: Placement::Map, address: 0x120_0000, offset: 0x20_1000, size: 0x1000 },
            Piece { placement: Placement::Copy, address: 0x120_1000, offset: 0x20_2000, size: 0x3000 },
        ]
    );
}

/// A change to the typical file, and what the error must say.
type Case = (&'static str, fn(&mut KernelFile), &'static str);

const HOSTILE: [Case; 19] = [
    ("empty", |f| f.bytes.clear(), "not an ELF file"),
    ("short", |f| f.bytes.truncate(40), "not an ELF file"),
    ("script", |f| f.write_at(0, b"#!/bin/sh"), "not an ELF file"),
    ("32-bit", |f| f.write_at(4, &[1]), "not a 64-bit"),
    ("big-endian", |f| f.write_at(5, &[2]), "not a 64-bit"),
    ("aarch64", |f| f.write_at(18, &[183]), "not for x86-64 but for ELF machine 183"),
    ("shared object", |f| f.write_at(16, &[3]), "not an executable but ELF type 3"),
    ("no program headers", |f| f.write_at(56, &[0]), "program headers"),
    ("65535 program headers", |f| f.write_at(56, &[0xff, 0xff]), "program headers"),
    ("program header size", |f| f.write_at(54, &[32]), "program headers"),
    ("headers past the end", |f| f.write_at(32, &0x20_7ff0_u64.to_le_bytes()), "program headers"),
    ("headers overflow", |f| f.write_at(32, &u64::MAX.to_le_bytes()), ""),
    ("file size over memory size", |f| f.segment(1, 0x20_5000, 0x140_0000, 0x800, 0x7ff), "program headers"),
    ("past the end of the file", |f| f.segment(1, 0x20_7801, 0x140_0000, 0x800, 0x800), "end of the file"),
    ("offset overflow", |f| f.segment(1, u64::MAX, 0x140_0000, 0x800, 0x800), "end of the file"),
    ("below 1 MiB", |f| f.segment(1, 0x20_5000, 0x7000, 0x800, 0x800), "needs memory"),
    ("beyond memory", |f| f.segment(1, 0x20_5000, MEMORY_END - 0x800, 0x800, 0x801), "needs memory"),
    ("address overflow", |f| f.segment(1, 0x20_5000, u64::MAX - 8, 0x8, 0x800), "needs memory"),
    ("overlap", |f| f.segment(1, 0x20_5000, 0x120_3fff, 1, 1), "overlap"),
];

#[test]
fn hostile_files_are_refused_with_the_reason() {
    for (name, spoil, expected) in HOSTILE {
        let mut file = KernelFile::typical();
        spoil(&mut file);
        let error = file.read().expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn an_entry_must_lie_in_the_bytes_of_a_segment() {
    for entry in [0, 0xff_ffff, 0x120_4000, 0x140_0800, u64::MAX] {
        let mut file = KernelFile::typical();
        file.write_at(24, &entry.to_le_bytes());
        assert!(matches!(file.read(), Err(ElfError::Entry(e)) if e == entry), "{entry:#x}");
    }
}

#[test]
fn without_usable_section_names_all_is_copied() {
    let spoils: [fn(&mut KernelFile); 5] = [
        |f| f.write_at(58, &[40]),                   // e_shentsize
        |f| f.write_at(62, &[200]),                  // e_shstrndx
        |f| f.write_at(40, &u64::MAX.to_le_bytes()), // e_shoff
        |f| f.section(3, 15, 0x800, u64::MAX),       // names too long
        |f| f.section(1, 9999, 0x1000, 0x1000),      // name beyond the names
    ];
    for (index, spoil) in spoils.iter().enumerate() {
        let mut file = KernelFile::typical();
        spoil(&mut file);
        let image = file.read().unwrap();
        assert_eq!(image.code, [], "case {index}");
        let pieces = plan(&image.segments[0], &image.code);
        assert_eq!(
            pieces,
            [Piece { placement: Placement::Copy, address: 0x100_0000, offset: 0x1000, size: 0x20_4000 }]
        );
    }
}

/// A small generator of numbers, so that a failing case can be run again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn a_plan_always_covers_a_segment_once_and_maps_only_whole_pages() {
    let mut numbers = Numbers(7);
    for case in 0..20_000 {
        let offset = numbers.below(0x9000);
        let congruent = numbers.below(4) > 0;
        let address = 0x100_0000 + if congruent { offset % PAGE_SIZE } else { numbers.below(0x2000) };
        let file_size = numbers.below(0x9000);
        let segment = Segment { address, offset, file_size, memory_size: file_size };
        let code: Vec<_> = (0..numbers.below(4))
            .map(|_| Code {
                offset: numbers.below(0x14000),
                size: if numbers.below(9) == 0 { u64::MAX } else { numbers.below(0x8000) },
            })
            .collect();
        let mut next = offset;
        for piece in plan(&segment, &code) {
            assert_eq!(piece.offset, next, "case {case}: {segment:x?} {code:x?}");
            assert_eq!(piece.address - address, piece.offset - offset);
            assert!(piece.size > 0);
            if piece.placement != Placement::Copy {
                assert_eq!((piece.address | piece.offset | piece.size) % PAGE_SIZE, 0);
                let end = piece.offset + piece.size;
                assert!(code.iter().any(|section| section.offset <= piece.offset
                    && end <= section.offset.saturating_add(section.size)));
            }
            next += piece.size;
        }
        assert_eq!(next, offset + file_size, "case {case}: {segment:x?} {code:x?}");
    }
}

#[test]
fn headers_of_random_bytes_never_panic() {
    let mut numbers = Numbers(11);
    let typical = KernelFile::typical();
    for _ in 0..2000 {
        let mut file = typical.clone();
        for _ in 0..=numbers.below(4) {
            let region = [0, 64, 0x400][usize::try_from(numbers.below(3)).unwrap()];
            let at = region + usize::try_from(numbers.below(112)).unwrap();
            file.bytes[at] = u8::try_from(numbers.below(256)).unwrap();
        }
        if let Ok(image) = file.read() {
            for segment in &image.segments {
                assert!(segment.address + segment.memory_size <= MEMORY_END);
                plan(segment, &image.code);
            }
        }
    }
}
