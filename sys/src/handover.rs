//! Bytes that are too many for a packet, from one process to another: a file in memory that travels as a descriptor.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::fs::{MemfdFlags, fstat, memfd_create};

/// A file in memory with these bytes.
///
/// # Errors
/// The system's.
pub fn put(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("handover", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// The bytes of such a file, of at most `most`. Whoever made it may still change it: what is read is no more than was
/// there at some moment, and never more than was there at first.
///
/// # Errors
/// It is longer, or the system's.
pub fn take(file: impl AsFd, most: usize) -> io::Result<Vec<u8>> {
    let size = usize::try_from(fstat(&file)?.st_size).unwrap_or(usize::MAX);
    if size > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{size} bytes are more than {most}"),
        ));
    }
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken_as_often_as_one_likes() {
        let text = "x".repeat(200_000);
        let file = put(text.as_bytes()).unwrap();
        for _ in 0..2 {
            assert_eq!(take(&file, text.len()).unwrap(), text.as_bytes());
        }
        assert_eq!(take(&file, text.len() - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(take(put(b"").unwrap(), 0).unwrap().is_empty());
    }
}
