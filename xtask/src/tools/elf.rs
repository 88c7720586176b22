//! Whether a program runs in an image that holds nothing else.

use std::path::Path;

/// Whether a program needs neither loader nor libraries, so that it runs in an empty image.
pub fn is_static(program: &Path) -> bool {
    std::fs::read(program).is_ok_and(|bytes| has_no_interpreter(&bytes))
}

/// Looks for `PT_INTERP` among the program headers of a 64-bit ELF file.
fn has_no_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    let field = |at: usize, length: usize| -> Option<usize> {
        let mut bytes = [0_u8; 8];
        bytes[..length].copy_from_slice(elf.get(at..at.checked_add(length)?)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    // 64 bits, least byte first: all that Debian runs on that Gantry is built for.
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(offset), Some(size), Some(count)) = (field(32, 8), field(54, 2), field(56, 2)) else {
        return false;
    };
    (0..count).all(|index| {
        index
            .checked_mul(size)
            .and_then(|at| at.checked_add(offset))
            .and_then(|at| elf.get(at..at.checked_add(4)?))
            .is_some_and(|kind| kind != PT_INTERP)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let ours = std::env::current_exe().unwrap();
        assert!(!is_static(&ours));
        let mut elf = std::fs::read(ours).unwrap();
        let offset = usize::try_from(u64::from_le_bytes(elf[32..40].try_into().unwrap())).unwrap();
        let count = usize::from(u16::from_le_bytes([elf[56], elf[57]]));
        for header in 0..count {
            let at = offset + header * 56;
            if elf[at..at + 4] == [3, 0, 0, 0] {
                elf[at] = 0;
            }
        }
        assert!(has_no_interpreter(&elf));
    }

    #[test]
    fn what_is_no_whole_elf_file_is_not_static() {
        for bytes in [
            &b""[..],
            b"#!/bin/sh\n",
            b"\x7fELF\x02\x01",
            &[0x7f, b'E', b'L', b'F', 2, 1, 255, 255],
        ] {
            assert!(!has_no_interpreter(bytes));
        }
        let mut far = vec![0xff_u8; 64];
        far[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(!has_no_interpreter(&far));
    }
}
