//! Which socket of a UDP `SO_REUSEPORT` group a datagram is for. Of QUIC: connection IDs that name their slot, and the
//! classic BPF program that reads them in the kernel. Of other datagrams: a program that keeps a client together.
//!
//! A slot is one socket of the group, read by one thread. A datagram of a connection that exists carries an ID that one of
//! the slots has made, wherever the client sends it from; any other (a client's first) goes to one of the slots that take
//! new connections, always to the same for one connection. The program is [`Program::new`], pure; [`attach`] gives it to
//! the kernel, which swaps whole programs between two datagrams.
//!
//! Of datagrams that are passed on ([`Program::by_client`]) those of one address and port go to one of the active slots, and
//! to another only when that one leaves or one is added that has a higher hash. The kernel's own hash would not do: it
//! spreads over all sockets of the group, of which most are nobody's.
//!
//! An ID is 11 bytes: the slot, masked by a hash of the random part; a check of the random part; 7 random bytes. Who does
//! not know the key cannot tell the slot, and a foreign ID passes for ours once in 65,536 times.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Bytes of a connection ID.
pub const CID_LEN: usize = 11;

/// How IDs are masked: the same for all sockets of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CidKey {
    mask: u32,
    check: u32,
}

impl CidKey {
    /// A key of 8 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        // Odd: a multiplication loses no bit then.
        Self { mask: u32::from_be_bytes([a, b, c, d]) | 1, check: u32::from_be_bytes([e, f, g, h]) | 1 }
    }

    /// The ID of that slot with these random bytes.
    #[must_use]
    pub fn cid(&self, slot: u16, random: [u8; 7]) -> [u8; CID_LEN] {
        let mut cid = [0; CID_LEN];
        cid[4..].copy_from_slice(&random);
        let (mask, check) = self.of(&cid);
        cid[..2].copy_from_slice(&(slot ^ mask).to_be_bytes());
        cid[2..4].copy_from_slice(&check.to_be_bytes());
        cid
    }

    /// The slot that has made the ID, if one of this group has.
    #[must_use]
    pub fn slot(&self, cid: &[u8]) -> Option<u16> {
        let cid: &[u8; CID_LEN] = cid.try_into().ok()?;
        let (mask, check) = self.of(cid);
        let [a, b, c, d, ..] = *cid;
        (u16::from_be_bytes([c, d]) == check).then_some(u16::from_be_bytes([a, b]) ^ mask)
    }

    fn of(&self, cid: &[u8; CID_LEN]) -> (u16, u16) {
        let [_, _, _, _, a, b, c, d, e, f, g] = *cid;
        (
            high(u32::from_be_bytes([a, b, c, d]), self.mask),
            high(u32::from_be_bytes([d, e, f, g]), self.check),
        )
    }
}

/// The upper half of the product.
fn high(value: u32, factor: u32) -> u16 {
    u16::try_from(value.wrapping_mul(factor) >> 16).expect("half of 32 bits are 16")
}

/// The group as a program should see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group<'a> {
    /// All slots, ascending: the sockets were bound in that order and none was closed since, and the kernel counts them so.
    pub slots: &'a [u16],
    /// The slots that take new connections. If none does, the first slot gets them.
    pub active: &'a [u16],
}

impl Group<'_> {
    /// The slots as runs without gaps: the first of each, how many, and the kernel's number of the first.
    fn runs(&self) -> Vec<(u16, u16, u16)> {
        let mut runs: Vec<(u16, u16, u16)> = Vec::new();
        for (index, slot) in (0..).zip(self.slots.iter().copied()) {
            match runs.last_mut() {
                Some((first, count, _)) if first.checked_add(*count) == Some(slot) => *count += 1,
                _ => runs.push((slot, 1, index)),
            }
        }
        // A gap is a socket that could not be bound. Beyond so many, connections that move are lost.
        runs.truncate(MAX_RUNS);
        runs
    }

    /// The kernel's number of a slot.
    fn index(&self, slot: u16) -> u32 {
        let index = self.slots.binary_search(&slot).unwrap_or(0);
        u32::try_from(index).expect("there are no more slots than numbers of 16 bits")
    }
}

/// As many as conditional jumps reach over.
const MAX_RUNS: usize = 30;

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// A program for [`attach`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// New connections are spread over so many buckets: over 8 slots each gets within an eighth of its share, and the tree that
/// finds a bucket's slot is 8 comparisons deep.
const BUCKETS: u32 = 256;

/// Knuth's multiplicative hash.
const BUCKET_FACTOR: u32 = 0x9e37_79b1;

/// Shorter datagrams are no QUIC packet with an ID of ours; the kernel's own hash decides.
const SHORTEST: u32 = 18;

/// Where the IP header begins (`SKF_NET_OFF`, linux/filter.h); plain offsets are those of the UDP payload.
const NETWORK: u32 = 0xfff0_0000;

/// An index that no group has: the kernel's own hash decides.
const MISS: u32 = u32::MAX;

// linux/bpf_common.h
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_LENGTH: u16 = 0x80;
/// Half a word at `X` and the operand.
const LOAD_HALF_AT_X: u16 = 0x48;
/// To `X`, four times the lower half of the byte: the length of an IPv4 header.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const ADD: u16 = 0x04;
const SUBTRACT: u16 = 0x14;
const MULTIPLY: u16 = 0x24;
const SHIFT_RIGHT: u16 = 0x74;
const XOR_X: u16 = 0xac;
const TO_X: u16 = 0x07;
const STORE: u16 = 0x02;
const LOAD_STORED: u16 = 0x60;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_EQUAL_X: u16 = 0x1d;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

impl Program {
    /// The program of a group.
    #[must_use]
    pub fn new(group: &Group<'_>, key: CidKey) -> Self {
        let known = |at: u32| Self::known(group, key, at);
        let (short, long) = (known(1), known(6));
        let jump = |length: usize| u8::try_from(length).expect("the parts are a few instructions long");
        let mut program = Self(Vec::new());
        program.op(LOAD_LENGTH, 0);
        program.branch(JUMP_AT_LEAST, SHORTEST, 1, 0);
        program.op(RETURN, MISS);
        program.op(LOAD_BYTE, 0);
        program.branch(JUMP_SET, 0x80, jump(short.len() + 1), 0);
        program.0.extend(&short);
        program.op(RETURN, MISS);
        // A long header: version in 1..5, the ID's length in 5.
        program.op(LOAD_BYTE, 5);
        program.branch(JUMP_EQUAL, u32::try_from(CID_LEN).expect("eleven"), 0, jump(long.len()));
        program.0.extend(&long);
        // Whatever else: retransmissions have the same ID, and stay together.
        program.op(LOAD_WORD, 6);
        program.op(TO_X, 0);
        program.op(LOAD_WORD, 10);
        program.op(XOR_X, 0);
        program.spread(group);
        program
    }

    /// The program of a group whose datagrams are passed on: by the client's address and port.
    #[must_use]
    pub fn by_client(group: &Group<'_>, key: CidKey, ipv6: bool) -> Self {
        let mut program = Self(Vec::new());
        if ipv6 {
            program.op(LOAD_WORD, NETWORK + 8);
            for word in [12, 16, 20] {
                program.op(TO_X, 0);
                program.op(LOAD_WORD, NETWORK + word);
                program.op(XOR_X, 0);
            }
        } else {
            program.op(LOAD_WORD, NETWORK + 12);
        }
        program.op(MULTIPLY, key.mask);
        program.op(STORE, 0);
        if ipv6 {
            // Behind an extension header this is another part of the datagram, the same for all of one client's.
            program.op(LOAD_HALF, NETWORK + 40);
        } else {
            program.op(LOAD_HEADER_LENGTH, NETWORK);
            program.op(LOAD_HALF_AT_X, NETWORK);
        }
        program.op(MULTIPLY, key.check);
        program.op(TO_X, 0);
        program.op(LOAD_STORED, 0);
        program.op(XOR_X, 0);
        program.spread(group);
        program
    }

    /// Returns the index of the active slot that `A` falls on.
    fn spread(&mut self, group: &Group<'_>) {
        self.op(MULTIPLY, BUCKET_FACTOR);
        self.op(SHIFT_RIGHT, 24);
        let table: Vec<u32> = (0..BUCKETS).map(|bucket| group.index(choose(group, bucket))).collect();
        self.tree(&table, 0);
    }

    /// Returns the slot's index if there is an ID of ours at that place; otherwise goes on behind.
    fn known(group: &Group<'_>, key: CidKey, at: u32) -> Vec<Instruction> {
        let mut part = Self(Vec::new());
        part.op(LOAD_WORD, at + 4);
        part.op(MULTIPLY, key.mask);
        part.op(SHIFT_RIGHT, 16);
        part.op(TO_X, 0);
        part.op(LOAD_HALF, at);
        part.op(XOR_X, 0);
        part.op(STORE, 0);
        part.op(LOAD_WORD, at + 7);
        part.op(MULTIPLY, key.check);
        part.op(SHIFT_RIGHT, 16);
        part.op(TO_X, 0);
        part.op(LOAD_HALF, at + 2);
        let mut runs = Self(Vec::new());
        for (first, count, index) in group.runs() {
            runs.op(LOAD_STORED, 0);
            // Wraps for a slot below the first, and is not in the run either.
            runs.op(SUBTRACT, first.into());
            runs.branch(JUMP_AT_LEAST, count.into(), 2, 0);
            runs.op(ADD, index.into());
            runs.op(RETURN_A, 0);
        }
        let over = u8::try_from(runs.0.len()).expect("30 runs are 150 instructions");
        part.branch(JUMP_EQUAL_X, 0, 0, over);
        part.0.extend(runs.0);
        part.0
    }

    /// Returns `table[A - from]`, by halving.
    fn tree(&mut self, table: &[u32], from: u32) {
        if table.iter().all(|index| *index == table[0]) {
            return self.op(RETURN, table[0]);
        }
        let half = table.len() / 2;
        let middle = from + u32::try_from(half).expect("a part of 256");
        let mut left = Self(Vec::new());
        left.tree(&table[..half], from);
        // A conditional jump reaches no further than 255.
        self.branch(JUMP_AT_LEAST, middle, 0, 1);
        self.op(JUMP, u32::try_from(left.0.len()).expect("a program of some hundred instructions"));
        self.0.extend(left.0);
        self.tree(&table[half..], middle);
    }

    fn op(&mut self, code: u16, operand: u32) {
        self.branch(code, operand, 0, 0);
    }

    fn branch(&mut self, code: u16, operand: u32, jump_true: u8, jump_false: u8) {
        self.0.push(Instruction { code, jump_true, jump_false, operand });
    }
}

/// The slot that a bucket's new connections go to: of the active ones that with the highest hash (rendezvous), so that only
/// the buckets of a slot that leaves move.
fn choose(group: &Group<'_>, bucket: u32) -> u16 {
    let weight = |slot: &u16| {
        let mut hash = (u64::from(bucket) << 16 | u64::from(*slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
        hash ^ hash >> 32
    };
    group.active.iter().copied().max_by_key(weight).or(group.slots.first().copied()).unwrap_or_default()
}

/// Makes the kernel spread the datagrams of the socket's group as the program says, from the next one on. Before the
/// socket is bound it begins a group that has the program from its first datagram.
///
/// # Errors
///
/// Those of `setsockopt`: `ENOMEM` where `net.core.optmem_max` is below the program's size (5 KiB).
#[expect(unsafe_code, reason = "neither socket2 nor rustix offers SO_ATTACH_REUSEPORT_CBPF")]
pub fn attach(socket: BorrowedFd<'_>, program: &Program) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .0
        .iter()
        .map(|i| libc::sock_filter { code: i.code, jt: i.jump_true, jf: i.jump_false, k: i.operand })
        .collect();
    let fprog = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        filter: filter.as_mut_ptr(),
    };
    let size = u32::try_from(size_of_val(&fprog)).expect("a sock_fprog has 16 bytes");
    // SAFETY: the descriptor is open for the borrow; `fprog` is initialised, `size` is its size, and it points to as many
    // instructions as it says, which live until the call returns. The kernel copies and checks them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const fprog).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has each datagram delivered by itself: the kernel would otherwise join several of one address, of which the program sees
/// only the first, though they may be of different connections.
///
/// # Errors
///
/// Those of `setsockopt`.
pub fn keep_datagrams_apart(socket: BorrowedFd<'_>) -> io::Result<()> {
    const UDP_GRO: libc::c_int = 104;
    set_option(socket, libc::SOL_UDP, UDP_GRO, 0)
}

/// Has datagrams that are longer than a packet cut into several, as a socket has it by default; QUIC's has not.
///
/// # Errors
///
/// Those of `setsockopt`.
pub fn allow_fragments(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
    if ipv6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "neither socket2 nor rustix offers these options")]
fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = u32::try_from(size_of_val(&value)).expect("an int has 4 bytes");
    // SAFETY: the descriptor is open for the borrow, the value is an initialised int and `size` is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests;
