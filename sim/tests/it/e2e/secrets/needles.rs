//! A secret in every form in which it could leak, and the search for it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a zstd frame begins with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The forms of a private key and of a text.
pub(super) struct Needles {
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Needles {
    pub(super) fn of(key_pem: &str, text: &str) -> Result<Self> {
        let body: String = key_pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(&body)?;
        // RFC 5915: the key itself, an OCTET STRING of 32 bytes.
        let at = der.windows(2).position(|two| two == [4, 32]).context("a P-256 key")? + 2;
        let secret = &der[at..at + 32];
        let mut needles = Self { forms: vec![] };
        needles.add("the private key", secret);
        needles.add("the text", text.as_bytes());
        // Where the second line begins it is still the key; before is what all such files have, after the public key.
        needles.add("a line of the PEM file", body.get(64..88).context("a line of 64")?.as_bytes());
        Ok(needles)
    }

    /// The forms of a secret of at least 24 bytes.
    pub(super) fn add(&mut self, what: &'static str, bytes: &[u8]) {
        // Of whatever is encoded together with what: all but its ends, which depend on the neighbours.
        for shift in 0..3 {
            let shifted = base64(&[&[0; 3][..shift], bytes].concat());
            let form = shifted.as_bytes()[4..shifted.len() - 4].to_vec();
            // A PEM file breaks its lines.
            self.forms.push((what, form[..form.len().min(24)].to_vec()));
            self.forms.push((what, form[form.len() - form.len().min(24)..].to_vec()));
        }
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.forms.push((what, digits.to_uppercase().into_bytes()));
        self.forms.push((what, digits.into_bytes()));
        let debug = format!("{:?}", &bytes[4..20]);
        self.forms.push((what, debug.trim_matches(['[', ']']).as_bytes().to_vec()));
        self.forms.push((what, bytes.to_vec()));
    }

    pub(super) fn count(&self) -> usize {
        self.forms.len()
    }

    /// The search has teeth.
    pub(super) fn are_found_in(&self, bytes: &[u8]) -> Result<()> {
        ensure!(self.are_not_in(bytes).is_err(), "the search does not find the secret where it is");
        Ok(())
    }

    pub(super) fn are_not_in(&self, bytes: &[u8]) -> Result<()> {
        for (what, form) in &self.forms {
            let found = find(bytes, form);
            ensure!(
                found.is_none(),
                "{what} is at byte {}: ..{}..",
                found.unwrap_or_default(),
                String::from_utf8_lossy(
                    &bytes[found.unwrap_or_default().saturating_sub(300)..][..300.min(bytes.len())]
                )
            );
        }
        Ok(())
    }
}

pub(super) fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    find(bytes, needle).is_some()
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// A file as it is, and all that is compressed in it.
pub(super) fn contents(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut contents = vec![bytes.to_vec()];
    for at in memchr::memmem::find_iter(bytes, &ZSTD) {
        let mut plain = vec![];
        if let Ok(decoder) = zstd::stream::Decoder::new(&bytes[at..]) {
            // What follows the frame is no error of what was read.
            decoder.take(1 << 28).read_to_end(&mut plain).ok();
        }
        contents.push(plain);
    }
    contents
}
