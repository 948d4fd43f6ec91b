//! WebSocket as a tunnel sees it (RFC 6455): where messages begin and end, and the frame that says goodbye.
//!
//! Sans-IO. A [`Scanner`] follows one direction and changes nothing: extensions, payloads and even mistakes are the two
//! ends' own business. What it knows at any byte is whether a frame of ours would cut something there.

/// Where bytes may no longer pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// They all may.
    End,
    /// At the first place between two messages.
    Border,
    /// Before a Close frame.
    Close,
}

/// Follows the frames of one direction. Holds a frame's header at most, whatever the frame's length.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scanner {
    header: [u8; LONGEST_HEADER],
    /// Bytes of the header that are there.
    begun: usize,
    /// Bytes of the frame that are to come after its header.
    left: u64,
    /// A message's last frame is still to come.
    in_message: bool,
    /// The frame under way, or the last one, is a Close.
    closing: bool,
}

/// Two bytes, and the longest form of the length. The mask counts as payload here.
const LONGEST_HEADER: usize = 2 + 8;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
/// Opcodes from here on are control frames, which stand between the frames of a message (section 5.4).
const CONTROL: u8 = 0x08;
const CLOSE: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

impl Scanner {
    /// Whether a frame of ours would stand between two messages here, and be read as one.
    pub(crate) fn at_border(&self) -> bool {
        self.begun == 0 && self.left == 0 && !self.in_message && !self.closing
    }

    /// Whether a whole Close frame has passed. What comes after it is no frame.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing && self.begun == 0 && self.left == 0
    }

    /// Follows as many bytes from the front of `bytes` as may pass, and returns how many.
    pub(crate) fn follow(&mut self, bytes: &[u8], until: Until) -> usize {
        let mut rest = bytes;
        while let [first, ..] = rest {
            if self.is_closed() {
                return bytes.len();
            }
            let stop = match until {
                Until::End => false,
                Until::Border => self.at_border(),
                Until::Close => self.begun == 0 && self.left == 0 && first & OPCODE == CLOSE,
            };
            if stop {
                break;
            }
            rest = if self.left > 0 { self.skip(rest) } else { self.take_header(rest) };
        }
        bytes.len() - rest.len()
    }

    fn skip<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= count as u64;
        &bytes[count..]
    }

    /// Takes what there is of a header; the last byte begins the frame's payload.
    fn take_header<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while let [byte, after @ ..] = rest {
            self.header[self.begun] = *byte;
            self.begun += 1;
            rest = after;
            let extended = match self.header[1] & LENGTH {
                _ if self.begun < 2 => continue,
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if self.begun == 2 + extended {
                self.begin_frame(extended);
                break;
            }
        }
        rest
    }

    fn begin_frame(&mut self, extended: usize) {
        let [first, second, rest @ ..] = self.header;
        let length = match extended {
            0 => u64::from(second & LENGTH),
            _ => rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        self.left = length.saturating_add(mask);
        self.begun = 0;
        let opcode = first & OPCODE;
        self.closing = opcode == CLOSE;
        if opcode < CONTROL {
            self.in_message = first & FIN == 0;
        }
    }
}

/// A Close frame with code 1001, "going away" (section 7.4.1). `mask` for one that a client sends.
pub(crate) fn going_away(mask: Option<[u8; 4]>) -> Vec<u8> {
    const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();
    match mask {
        None => vec![FIN | CLOSE, 2, GOING_AWAY[0], GOING_AWAY[1]],
        Some([a, b, c, d]) => {
            vec![FIN | CLOSE, MASKED | 2, a, b, c, d, GOING_AWAY[0] ^ a, GOING_AWAY[1] ^ b]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A frame as its sender makes it.
    #[derive(Debug, Clone)]
    struct Frame {
        first: u8,
        length: usize,
        masked: bool,
    }

    impl Frame {
        fn bytes(&self) -> Vec<u8> {
            let mask = if self.masked { MASKED } else { 0 };
            let mut bytes = vec![self.first];
            match self.length {
                short @ 0..126 => bytes.push(mask | u8::try_from(short).unwrap()),
                medium @ 126..65536 => {
                    bytes.push(mask | 126);
                    bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
                }
                long => {
                    bytes.push(mask | 127);
                    bytes.extend((long as u64).to_be_bytes());
                }
            }
            // Payloads that look like Close frames.
            bytes.extend(std::iter::repeat_n(0x88, self.length + if self.masked { 4 } else { 0 }));
            bytes
        }

        fn is_data(&self) -> bool {
            self.first & OPCODE < CONTROL
        }
    }

    fn frame(first: u8, length: usize) -> Frame {
        Frame { first, length, masked: false }
    }

    fn joined(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(Frame::bytes).collect()
    }

    /// How much of `bytes` passes when they come in parts of `step`.
    fn passed(scanner: &mut Scanner, bytes: &[u8], step: usize, until: Until) -> usize {
        let mut passed = 0;
        for part in bytes.chunks(step) {
            let count = scanner.follow(part, until);
            passed += count;
            if count < part.len() {
                break;
            }
        }
        passed
    }

    #[test]
    fn goodbyes_are_frames() {
        assert_eq!(going_away(None), [0x88, 0x02, 0x03, 0xe9]);
        assert_eq!(going_away(Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x02, 0xeb]);
        for bytes in [going_away(None), going_away(Some([9; 4]))] {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.follow(&bytes, Until::End), bytes.len());
            assert!(scanner.is_closed() && !scanner.at_border());
        }
    }

    #[test]
    fn a_border_is_between_messages_and_never_in_one() {
        // text "a" | text begins, ping, continues, ends | binary
        let frames = [
            frame(0x81, 1),
            frame(0x01, 3),
            frame(0x89, 2),
            frame(0x00, 0),
            frame(0x80, 300),
            frame(0x82, 70_000),
        ];
        let ends = [1, 5, 6].map(|count| joined(&frames[..count]).len());
        let bytes = joined(&frames);
        for cut in 0..bytes.len() {
            let mut scanner = Scanner::default();
            assert_eq!(scanner.follow(&bytes[..cut], Until::End), cut);
            let border = *ends.iter().find(|end| **end >= cut).unwrap();
            let border = if cut == 0 { 0 } else { border };
            assert_eq!(scanner.at_border(), border == cut, "after {cut}");
            assert_eq!(scanner.follow(&bytes[cut..], Until::Border), border - cut, "from {cut}");
        }
    }

    #[test]
    fn nothing_is_read_after_a_close_frame() {
        let mut scanner = Scanner::default();
        let bytes = [joined(&[frame(0x88, 2)]), vec![0x01; 50]].concat();
        assert_eq!(scanner.follow(&bytes, Until::Border), 0, "it stands at a border at once");
        assert_eq!(scanner.follow(&bytes, Until::End), bytes.len());
        assert!(scanner.is_closed());
    }

    #[test]
    fn a_length_that_no_memory_holds_is_followed() {
        let mut scanner = Scanner::default();
        let mut bytes = vec![0x82, MASKED | 127];
        bytes.extend([0xff; 8]);
        assert_eq!(scanner.follow(&bytes, Until::End), bytes.len());
        assert_eq!(scanner.follow(&[0x88; 1000], Until::Close), 1000, "it is payload");
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let length = prop_oneof![0..5_usize, 120..130_usize, 65_530..65_540_usize];
        let first = prop_oneof![
            Just(0x81_u8),
            Just(0x01),
            Just(0x00),
            Just(0x80),
            Just(0xc1),
            Just(0x89),
            Just(0x8a)
        ];
        vec(
            (first, length, any::<bool>()).prop_map(|(first, length, masked)| Frame {
                first,
                length,
                masked,
            }),
            1..8,
        )
    }

    proptest! {
        #[test]
        fn how_bytes_were_cut_makes_no_difference(frames in frames(), step in 1..200_usize, after in 0..20_000_usize) {
            let bytes = joined(&frames);
            let (mut whole, mut parts) = (Scanner::default(), Scanner::default());
            let after = after.min(bytes.len());
            prop_assert_eq!(whole.follow(&bytes[..after], Until::End), after);
            prop_assert_eq!(passed(&mut parts, &bytes[..after], step, Until::End), after);
            prop_assert_eq!(whole.at_border(), parts.at_border());
            let rest = &bytes[after..];
            prop_assert_eq!(whole.follow(rest, Until::Border), passed(&mut parts, rest, step, Until::Border));
            prop_assert_eq!(whole.at_border(), parts.at_border());
        }

        #[test]
        fn a_close_frame_is_found_wherever_it_stands(frames in frames(), step in 1..200_usize, length in 0..126_usize) {
            let before = joined(&frames);
            let all = [before.clone(), joined(&[frame(0x88, length)])].concat();
            let mut scanner = Scanner::default();
            prop_assert_eq!(passed(&mut scanner, &all, step, Until::Close), before.len());
            let in_message = frames.iter().rfind(|f| f.is_data()).is_some_and(|f| f.first & FIN == 0);
            prop_assert_eq!(scanner.at_border(), !in_message);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..400), until in prop_oneof![Just(Until::End), Just(Until::Border), Just(Until::Close)]) {
            let mut scanner = Scanner::default();
            let count = scanner.follow(&bytes, until);
            prop_assert!(count <= bytes.len());
        }
    }
}
