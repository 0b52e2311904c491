//! Bytes between the command line, the terminal and the store.
//!
//! Keys and values are any bytes. On the command line they are the bytes of the argument
//! (on systems whose arguments are not bytes: its UTF-8), or hexadecimal, or the escaped
//! form that [`escape`] writes and [`unescape`] reads; `unescape(escape(b)) == b` for all b.

use std::ffi::OsStr;

use crate::args::KeyForm;
use crate::failure::Failure;

/// The bytes of an argument or of a file name.
#[cfg(unix)]
pub(crate) fn of_os_str(text: &OsStr) -> Option<&[u8]> {
    Some(std::os::unix::ffi::OsStrExt::as_bytes(text))
}

/// The bytes of an argument or of a file name; `None` if it is not Unicode.
#[cfg(not(unix))]
pub(crate) fn of_os_str(text: &OsStr) -> Option<&[u8]> {
    text.to_str().map(str::as_bytes)
}

/// The bytes of an argument that is used as it stands.
pub(crate) fn plain(argument: &OsStr) -> Result<Vec<u8>, Failure> {
    of_os_str(argument)
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Failure::usage(format!("{} is not Unicode", argument.display())))
}

/// The key that an argument means.
pub(crate) fn key(argument: &OsStr, form: KeyForm) -> Result<Vec<u8>, Failure> {
    let text = plain(argument)?;
    let (parsed, what) = if form.hex {
        (unhex(&text), "hexadecimal: it takes two digits 0-9a-f for each byte")
    } else if form.escaped {
        (
            unescape(&text),
            "escaped: a backslash is followed by one of t n r \\ or by x and two hexadecimal digits",
        )
    } else {
        (Some(text), "")
    };
    parsed.ok_or_else(|| Failure::usage(format!("the key {} is not {what}", argument.display())))
}

/// Appends `bytes` to `out` so that only printable ASCII remains, and nothing is lost.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x20..=0x7e => out.push(byte),
            _ => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                out.extend_from_slice(&[b'\\', b'x', DIGITS[high], DIGITS[low]]);
            }
        }
    }
}

/// Undoes [`escape`]; `None` if a backslash begins nothing that it writes. Bytes that
/// `escape` would have escaped stand for themselves.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match rest.next()? {
            b'\\' => b'\\',
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            _ => return None,
        });
    }
    Some(out)
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{escape, key, unescape, unhex};
    use crate::args::KeyForm;

    #[test]
    fn every_byte_comes_back_from_its_escaped_form_which_is_printable() {
        let all: Vec<u8> = (0..=255).chain(*b"plain \\x41 text").collect();
        let mut text = Vec::new();
        escape(&all, &mut text);
        assert!(text.iter().all(|b| (0x20..=0x7e).contains(b)));
        assert_eq!(unescape(&text).unwrap(), all);
    }

    #[test]
    fn a_malformed_escape_is_refused() {
        for text in ["\\", "\\q", "\\x", "\\x4", "\\xg0", "a\\"] {
            assert_eq!(unescape(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn hexadecimal_takes_whole_bytes_of_either_case() {
        assert_eq!(unhex(b"00fFa5").unwrap(), [0, 0xff, 0xa5]);
        assert_eq!(unhex(b"").unwrap(), b"");
        assert_eq!(unhex(b"0"), None);
        assert_eq!(unhex(b"0x41"), None);
        assert_eq!(unhex(b"+1"), None);
    }

    #[test]
    fn the_form_decides_how_a_key_is_read() {
        let read = |text: &str, hex, escaped| {
            key(OsStr::new(text), KeyForm { hex, escaped }).map_err(|_| ())
        };
        assert_eq!(read("6b\\x00", false, false).unwrap(), b"6b\\x00");
        assert_eq!(read("6b00", true, false).unwrap(), b"k\0");
        assert_eq!(read("k\\x00", false, true).unwrap(), b"k\0");
        assert!(read("xyz", true, false).is_err());
    }
}
