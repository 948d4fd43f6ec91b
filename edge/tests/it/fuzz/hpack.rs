//! A second reader of field blocks, by the letter of RFC 7541, slow and from scratch: bits for Huffman's code, and a table that
//! is a list.

use edge::h2::hpack::{Decoder, FieldLines, SectionLimits};

type Pair = (Vec<u8>, Vec<u8>);

/// What reads the blocks of a connection.
pub(super) struct Reader {
    /// The newest first.
    table: Vec<Pair>,
    size: usize,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { table: vec![], size: 4096 }
    }

    /// The fields of a block; `None` if it is none, and then the connection is over.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Option<Vec<Pair>> {
        let mut fields = vec![];
        let mut changes = 0;
        while let Some(&first) = block.first() {
            let input = &mut block;
            if first & 0x80 != 0 {
                let index = integer(input, 7)?;
                fields.push(self.entry(index)?);
            } else if first & 0xe0 == 0x20 {
                let size = integer(input, 5)?;
                changes += 1;
                if !fields.is_empty() || changes > 2 || size > 4096 {
                    return None;
                }
                self.size = usize::try_from(size).ok()?;
                self.shrink(0);
            } else {
                let remembered = first & 0x40 != 0;
                let index = integer(input, if remembered { 6 } else { 4 })?;
                let name = if index == 0 { string(input)? } else { self.entry(index)?.0 };
                let pair = (name, string(input)?);
                if remembered {
                    self.insert(pair.clone());
                }
                fields.push(pair);
            }
        }
        Some(fields)
    }

    fn insert(&mut self, pair: Pair) {
        let cost = pair.0.len() + pair.1.len() + 32;
        self.shrink(cost);
        if cost <= self.size {
            self.table.insert(0, pair);
        }
    }

    fn shrink(&mut self, needed: usize) {
        let cost =
            |table: &[Pair]| table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
        while !self.table.is_empty() && cost(&self.table) + needed > self.size {
            self.table.pop();
        }
    }

    fn entry(&self, index: u64) -> Option<Pair> {
        match index {
            0 => None,
            // The standard's own table is no matter of reading.
            1..=61 => {
                let mut lines = FieldLines::default();
                let block = [0x80 | u8::try_from(index).ok()?];
                let limits = SectionLimits { fields: 1, bytes: 1000 };
                Decoder::default().decode(&block, limits, &mut lines).ok()?;
                lines.iter().next().map(|(name, value)| (name.to_vec(), value.to_vec()))
            }
            _ => self.table.get(usize::try_from(index - 62).ok()?).cloned(),
        }
    }
}

/// Section 5.1; of more than five bytes behind the first we know nothing.
fn integer(input: &mut &[u8], bits: u32) -> Option<u64> {
    let (&first, rest) = input.split_first()?;
    *input = rest;
    let mask = (1_u64 << bits) - 1;
    let mut value = u64::from(first) & mask;
    if value < mask {
        return Some(value);
    }
    for n in 0..5 {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        value += u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Section 5.2.
fn string(input: &mut &[u8]) -> Option<Vec<u8>> {
    let coded = *input.first()? & 0x80 != 0;
    let length = usize::try_from(integer(input, 7)?).ok()?;
    let text = input.get(..length)?;
    *input = &input[length..];
    if coded { huffman(text) } else { Some(text.to_vec()) }
}

/// Appendix B, bit by bit.
fn huffman(text: &[u8]) -> Option<Vec<u8>> {
    let bits: Vec<bool> =
        text.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1 == 1)).collect();
    let mut out = vec![];
    let mut begin = 0;
    for end in 0..bits.len() {
        let code = &bits[begin..=end];
        let number = code.iter().fold(0_u32, |number, bit| number << 1 | u32::from(*bit));
        if let Some(symbol) = symbol(number, code.len()) {
            out.push(u8::try_from(symbol).ok()?);
            begin = end + 1;
        }
        if code.len() > 30 {
            return None;
        }
    }
    let padding = &bits[begin..];
    (padding.len() < 8 && padding.iter().all(|bit| *bit)).then_some(out)
}

/// The symbol of that code: codes of one length follow each other, and each length goes on where the last one ended.
fn symbol(code: u32, length: usize) -> Option<usize> {
    let mut first = 0;
    for shorter in 1..=length {
        let symbols: Vec<_> = (0..257).filter(|symbol| usize::from(LENGTHS[*symbol]) == shorter).collect();
        first <<= 1;
        if shorter == length {
            return symbols.get(usize::try_from(code.checked_sub(first)?).ok()?).copied();
        }
        first += u32::try_from(symbols.len()).ok()?;
    }
    None
}

/// The bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6,
    6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8,
    13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15,
    11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23,
    23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26,
    26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21,
    22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27,
    27, 26, 30,
];
