//! A stream of bytes that can be made and checked at any place: lost, doubled, swapped and changed bytes show.

use std::io::{self, Read, Write};

const CHUNK: usize = 64 * 1024;

/// Byte stream of a seed.
#[derive(Debug, Clone)]
pub struct Pattern {
    seed: u64,
    position: u64,
}

impl Pattern {
    /// From its start.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        // To where a word begins, by words, and what is left: a word is mixed once, not once for each of its bytes,
        // which is most of what a test of a gigabyte does where each instruction is emulated.
        let aligned = usize::try_from(self.position.wrapping_neg() % 8).unwrap_or_default().min(buffer.len());
        let (head, rest) = buffer.split_at_mut(aligned);
        self.fill_part(head);
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word());
            self.position += 8;
        }
        self.fill_part(words.into_remainder());
    }

    /// At most the rest of the word at the position.
    fn fill_part(&mut self, buffer: &mut [u8]) {
        let start = usize::try_from(self.position % 8).unwrap_or_default();
        for (byte, from) in buffer.iter_mut().zip(self.word().iter().skip(start)) {
            *byte = *from;
        }
        self.position += buffer.len() as u64;
    }

    /// The word at the position.
    fn word(&self) -> [u8; 8] {
        mix(self.seed ^ (self.position / 8)).to_le_bytes()
    }

    /// Writes the next `length` bytes.
    ///
    /// # Errors
    /// Those of `output`.
    pub fn write(&mut self, mut length: u64, output: &mut impl Write) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
            let part = chunk.get_mut(..part).unwrap_or_default();
            self.fill(part);
            output.write_all(part)?;
            length -= part.len() as u64;
        }
        output.flush()
    }

    /// Reads `input` to its end, and compares.
    ///
    /// # Errors
    /// Those of `input`, and `InvalidData` with the place of the first difference.
    pub fn verify(&mut self, input: &mut impl Read) -> io::Result<u64> {
        let mut got = vec![0; CHUNK];
        let mut expected = vec![0; CHUNK];
        loop {
            let count = input.read(&mut got)?;
            if count == 0 {
                return Ok(self.position);
            }
            let start = self.position;
            let expected = expected.get_mut(..count).unwrap_or_default();
            self.fill(expected);
            let got = got.get(..count).unwrap_or_default();
            if got != expected {
                let differ = |(got, expected): (&u8, &u8)| got != expected;
                let index = got.iter().zip(expected.iter()).position(differ).unwrap_or_default();
                let place = start + index as u64;
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("byte {place} is wrong")));
            }
        }
    }
}

/// splitmix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The next number of a seeded sequence, for tests at random moments.
#[must_use]
pub fn random(seed: u64, index: u64) -> u64 {
    mix(seed.rotate_left(32) ^ index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verify_accepts_what_write_made_and_names_the_first_wrong_byte() {
        let mut stream = Vec::new();
        Pattern::new(7).write(200_001, &mut stream).unwrap();
        assert_eq!(Pattern::new(7).verify(&mut stream.as_slice()).unwrap(), 200_001);

        stream.remove(100_003);
        let error = Pattern::new(7).verify(&mut stream.as_slice()).unwrap_err();
        assert_eq!(error.to_string(), "byte 100003 is wrong");
    }

    #[test]
    fn a_stream_is_the_same_in_whatever_pieces_it_is_made() {
        let mut whole = vec![0; 1000];
        Pattern::new(9).fill(&mut whole);
        let bytes: Vec<u8> = (0..125).flat_map(|word| mix(9 ^ word).to_le_bytes()).collect();
        assert_eq!(whole, bytes);
        for length in [1, 3, 7, 8, 9, 13, 64, 999] {
            let (mut pattern, mut pieces) = (Pattern::new(9), vec![0; 1000]);
            pieces.chunks_mut(length).for_each(|piece| pattern.fill(piece));
            assert_eq!(pieces, whole, "in pieces of {length} bytes");
        }
    }
}
