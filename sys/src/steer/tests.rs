use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use super::*;
use crate::reuseport::{ReuseportOptions, bind_udp, local_address};

const KEY: [u8; 8] = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0];

fn key() -> CidKey {
    CidKey::new(KEY)
}

/// What the kernel does with a program.
fn run(program: &Program, packet: &[u8]) -> u32 {
    run_with(program, &[], packet)
}

/// The same with a packet's IP header.
fn run_with(program: &Program, network: &[u8], packet: &[u8]) -> u32 {
    let load = |at: u32, count: usize| -> Option<u32> {
        let (bytes, at) = if at >= NETWORK { (network, at - NETWORK) } else { (packet, at) };
        let bytes = bytes.get(at as usize..at as usize + count)?;
        Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    };
    let (mut a, mut x, mut stored, mut at) = (0_u32, 0_u32, 0_u32, 0_usize);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program.0[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { jump_true } else { jump_false });
        match code {
            LOAD_WORD | LOAD_HALF | LOAD_BYTE => {
                let count = match code {
                    LOAD_WORD => 4,
                    LOAD_HALF => 2,
                    _ => 1,
                };
                // A load behind the end returns zero: the first slot.
                let Some(value) = load(operand, count) else { return 0 };
                a = value;
            }
            LOAD_HALF_AT_X => {
                let Some(value) = load(operand + x, 2) else { return 0 };
                a = value;
            }
            LOAD_HEADER_LENGTH => {
                let Some(value) = load(operand, 1) else { return 0 };
                x = 4 * (value & 0xf);
            }
            LOAD_LENGTH => a = u32::try_from(packet.len()).unwrap(),
            ADD => a = a.wrapping_add(operand),
            SUBTRACT => a = a.wrapping_sub(operand),
            MULTIPLY => a = a.wrapping_mul(operand),
            SHIFT_RIGHT => a >>= operand,
            XOR_X => a ^= x,
            TO_X => x = a,
            STORE => stored = a,
            LOAD_STORED => a = stored,
            JUMP => at += operand as usize,
            JUMP_EQUAL => at += jump(a == operand),
            JUMP_EQUAL_X => at += jump(a == x),
            JUMP_AT_LEAST => at += jump(a >= operand),
            JUMP_SET => at += jump(a & operand != 0),
            RETURN => return operand,
            RETURN_A => return a,
            other => panic!("{other:#x}"),
        }
    }
}

fn random(seed: u32) -> [u8; 7] {
    let hash = (u64::from(seed) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let [a, b, c, d, e, f, g, _] = hash.to_be_bytes();
    [a, b, c, d, e, f, g]
}

fn short(cid: &[u8]) -> Vec<u8> {
    [&[0x40], cid, &[7; 30]].concat()
}

fn long(first: u8, cid: &[u8]) -> Vec<u8> {
    let length = u8::try_from(cid.len()).unwrap();
    [&[first, 0, 0, 0, 1, length], cid, &[7; 1200]].concat()
}

#[test]
fn an_id_names_its_slot() {
    for slot in [0, 1, 31, 255, 256, 1023, u16::MAX] {
        for seed in 0..100 {
            let cid = key().cid(slot, random(seed));
            assert_eq!(key().slot(&cid), Some(slot));
        }
    }
    let of_another = CidKey::new([7; 8]);
    let found = (0..1000).filter(|seed| of_another.slot(&key().cid(3, random(*seed))).is_some()).count();
    assert!(found <= 2, "{found} of 1000 foreign ids pass");
    assert_eq!(key().slot(&[0; 10]), None);
}

#[test]
fn packets_of_connections_go_to_their_slot_whether_it_is_active_or_not() {
    let slots: Vec<u16> = (40..340).collect();
    let group = Group { slots: &slots, active: &[41, 42] };
    let program = Program::new(&group, key());
    for slot in [40, 41, 99, 339] {
        let cid = key().cid(slot, random(u32::from(slot)));
        let index = u32::from(slot - 40);
        assert_eq!(run(&program, &short(&cid)), index);
        assert_eq!(run(&program, &long(0xe0, &cid)), index);
        assert_eq!(run(&program, &long(0xa0, &cid)), index, "the fixed bit is greased");
    }
    for slot in [0, 39, 340, 5000] {
        let cid = key().cid(slot, random(7));
        assert_eq!(run(&program, &short(&cid)), MISS);
        assert!(run(&program, &long(0xc0, &cid)) <= 2, "a new connection");
    }
    assert_eq!(run(&program, &short(&[9; 11])), MISS);
    assert_eq!(run(&program, &[0x40; 17]), MISS);
    assert_eq!(run(&program, &[]), MISS);
}

#[test]
fn new_connections_are_spread_over_the_active_slots_and_only_those_of_a_leaver_move() {
    let place = |active: &[u16]| -> Vec<u32> {
        let program = Program::new(&Group { slots: &[0, 1, 2, 3, 4, 5, 6, 7], active }, key());
        (0..4000).map(|seed| run(&program, &long(0xc0, &[&random(seed)[..], &[1]].concat()))).collect()
    };
    let all = place(&[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut counts = BTreeMap::<u32, u32>::new();
    all.iter().for_each(|index| *counts.entry(*index).or_default() += 1);
    assert!(counts.len() == 8 && counts.values().all(|count| (150..900).contains(count)), "{counts:?}");
    let without = place(&[0, 1, 2, 4, 5, 6, 7]);
    for (before, after) in all.iter().zip(&without) {
        assert!(*after != 3 && (before == after || *before == 3));
    }
    assert!(place(&[]).iter().all(|index| *index == 0), "nobody is active");
}

#[test]
fn slots_that_could_not_be_bound_leave_gaps() {
    let program = Program::new(&Group { slots: &[3, 4, 9, 11, 12], active: &[9] }, key());
    for (slot, index) in
        [(3, 0), (4, 1), (9, 2), (11, 3), (12, 4), (5, MISS), (10, MISS), (2, MISS), (13, MISS)]
    {
        assert_eq!(run(&program, &short(&key().cid(slot, random(1)))), index, "{slot}");
    }
    assert_eq!(run(&program, &long(0xc0, &random(5))), 2);
    let scattered: Vec<u16> = (0..200).map(|n| n * 2).collect();
    let program = Program::new(&Group { slots: &scattered, active: &scattered }, key());
    assert_eq!(run(&program, &short(&key().cid(20, random(1)))), 10);
    assert_eq!(run(&program, &short(&key().cid(398, random(1)))), MISS);
}

#[test]
fn a_program_of_many_slots_is_small_enough() {
    let active: Vec<u16> = (0..512).collect();
    let program = Program::new(&Group { slots: &active, active: &active }, key());
    assert!(program.0.len() < 1000, "{}", program.0.len());
}

#[test]
fn the_kernel_does_what_the_program_says() {
    let first = bind_udp("127.0.0.1:0".parse().unwrap(), ReuseportOptions::default()).unwrap();
    let address = local_address(first.as_fd()).unwrap();
    let mut slots = vec![UdpSocket::from(first)];
    for _ in 1..5 {
        slots.push(bind_udp(address, ReuseportOptions::default()).unwrap().into());
    }
    for slot in &slots {
        slot.set_nonblocking(false).unwrap();
        slot.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        keep_datagrams_apart(slot.as_fd()).unwrap();
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for active in [&[0, 1, 2, 3, 4][..], &[3], &[0, 2]] {
        let program = Program::new(&Group { slots: &[0, 1, 2, 3, 4], active }, key());
        attach(slots[0].as_fd(), &program).unwrap();
        for seed in 0..40 {
            let slot = u16::try_from(seed % 5).unwrap();
            for packet in [short(&key().cid(slot, random(seed))), long(0xc0, &random(seed))] {
                client.send_to(&packet, address).unwrap();
                let mut buffer = [0; 2000];
                let size = slots[run(&program, &packet) as usize].recv(&mut buffer).unwrap();
                assert_eq!(buffer[..size], packet);
            }
        }
    }
}

/// The headers of a datagram from that client, with so many words of options.
fn headers(client: SocketAddr, options: u8) -> Vec<u8> {
    let mut header = match client.ip() {
        IpAddr::V4(ip) => {
            let mut header = vec![0; 20 + 4 * usize::from(options)];
            header[0] = 0x45 + options;
            header[12..16].copy_from_slice(&ip.octets());
            header
        }
        IpAddr::V6(ip) => {
            let mut header = vec![0; 40];
            header[8..24].copy_from_slice(&ip.octets());
            header
        }
    };
    header.extend(client.port().to_be_bytes());
    header
}

#[test]
fn clients_are_spread_over_the_active_slots_and_only_those_of_a_leaver_move() {
    for (ipv6, host) in [(false, "192.0.2.7"), (true, "[2001:db8::7]")] {
        let place = |active: &[u16], options| -> Vec<u32> {
            let program = Program::by_client(&Group { slots: &[0, 1, 2, 3], active }, key(), ipv6);
            let client = |port: u16| format!("{host}:{port}").parse().unwrap();
            (1024..5024).map(|port| run_with(&program, &headers(client(port), options), &[])).collect()
        };
        let all = place(&[0, 1, 2, 3], 0);
        let mut counts = BTreeMap::<u32, u32>::new();
        all.iter().for_each(|index| *counts.entry(*index).or_default() += 1);
        assert!(counts.len() == 4 && counts.values().all(|n| (600..1500).contains(n)), "{counts:?}");
        for (before, after) in all.iter().zip(place(&[0, 1, 3], 0)) {
            assert!(after != 2 && (*before == after || *before == 2));
        }
        assert!(place(&[], 0).iter().all(|index| *index == 0), "nobody is active");
        if !ipv6 {
            assert_eq!(all, place(&[0, 1, 2, 3], 3), "options are passed over");
        }
    }
    let active: Vec<u16> = (0..512).collect();
    let program = Program::by_client(&Group { slots: &active, active: &active }, key(), true);
    assert!(program.0.len() < 1000, "{}", program.0.len());
}

#[test]
fn the_kernel_keeps_a_client_together() {
    for host in ["127.0.0.1", "[::1]"] {
        let Ok(first) = bind_udp(format!("{host}:0").parse().unwrap(), ReuseportOptions::default()) else {
            continue; // A machine without IPv6.
        };
        let address = local_address(first.as_fd()).unwrap();
        let mut slots = vec![UdpSocket::from(first)];
        for _ in 1..4 {
            slots.push(bind_udp(address, ReuseportOptions::default()).unwrap().into());
        }
        for slot in &slots {
            slot.set_nonblocking(false).unwrap();
            slot.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let clients: Vec<_> = (0..20).map(|_| UdpSocket::bind(format!("{host}:0")).unwrap()).collect();
        for active in [&[0, 1, 2, 3][..], &[2], &[1, 3]] {
            let group = Group { slots: &[0, 1, 2, 3], active };
            let program = Program::by_client(&group, key(), address.is_ipv6());
            attach(slots[0].as_fd(), &program).unwrap();
            for client in &clients {
                let from = client.local_addr().unwrap();
                // Longer than a packet of this interface, too: all fragments are one datagram.
                for length in [0, 1, 60_000] {
                    client.send_to(&vec![7; length], address).unwrap();
                    let mut buffer = vec![0; 65_536];
                    let slot = &slots[run_with(&program, &headers(from, 0), &[]) as usize];
                    assert_eq!(slot.recv_from(&mut buffer).unwrap(), (length, from));
                }
            }
        }
    }
}
