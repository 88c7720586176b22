//! Installs what the machine lacks, and says what and why.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::context::{Context, as_root};

/// Something that the machine must have.
pub struct Need {
    /// How to see that it is there.
    pub present: Present,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// What it is for.
    pub why: &'static str,
}

/// How to see that something is there.
pub enum Present {
    /// A program of that name is found.
    Program(&'static str),
    /// `pkg-config` knows the library.
    Library(&'static str),
    /// A file is there.
    File(&'static str),
    /// There is a busybox that runs in an empty image.
    StaticBusybox,
}

/// `openssl req`, which makes a pool's key and certificate signing request.
pub const OPENSSL: Need = Need {
    present: Present::Program("openssl"),
    package: "openssl",
    why: "makes the pool's key and CSR",
};
/// The stock `age`, the judge of our sealed files.
pub const AGE: Need = Need {
    present: Present::Program("age"),
    package: "age",
    why: "tests open sealed files with it",
};
/// The whole user land of the runner image that is built here.
pub const BUSYBOX: Need = Need {
    present: Present::StaticBusybox,
    package: "busybox-static",
    why: "shell and tools of the runner image",
};
/// The certificates that the runner image trusts.
pub const CERTIFICATES: Need = Need {
    present: Present::File("/etc/ssl/certs/ca-certificates.crt"),
    package: "ca-certificates",
    why: "what the runner image trusts",
};
/// The engine and its command.
pub const DOCKER: Need = Need {
    present: Present::Program("dockerd"),
    package: "docker.io",
    why: "runs go into containers",
};
/// The engine's command, which later versions of Debian package apart.
pub const DOCKER_COMMAND: Need = Need {
    present: Present::Program("docker"),
    package: "docker-cli",
    why: "the engine's command",
};
/// What the build links.
pub const BUILD: [Need; 4] = [
    Need {
        present: Present::Program("cc"),
        package: "gcc",
        why: "compiles the C parts of dependencies",
    },
    Need {
        present: Present::File("/usr/include/stdio.h"),
        package: "libc6-dev",
        why: "C headers for the same",
    },
    Need {
        present: Present::Program("pkg-config"),
        package: "pkg-config",
        why: "finds OpenSSL for the build",
    },
    Need {
        present: Present::Library("openssl"),
        package: "libssl-dev",
        why: "keys and sealing are OpenSSL's",
    },
];

/// Installs what is missing of `needs`, after asking.
pub fn ensure(cx: &Context, needs: &[&Need]) -> Result<()> {
    let missing: Vec<&Need> =
        needs.iter().filter(|need| !is_present(cx, &need.present)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    for need in &missing {
        cx.say.detail(&format!("missing: {} ({})", need.package, need.why));
    }
    if cx.config.find("apt-get").is_none() {
        bail!("this machine has no apt-get: install these yourself: {}", packages.join(", "));
    }
    let packages_in_words = packages.join(", ");
    cx.agree(&format!("install {packages_in_words} with apt-get"))?;
    cx.become_root(&format!("install {packages_in_words}"))?;
    install(cx, &packages)?;
    match missing.iter().find(|need| !is_present(cx, &need.present)) {
        None => Ok(()),
        Some(need) => {
            bail!("{} was installed, but what it should bring is still missing", need.package)
        }
    }
}

fn install(cx: &Context, packages: &[&str]) -> Result<()> {
    cx.say.detail(&format!("apt-get install {}", packages.join(" ")));
    if apt_get(cx, &[&["install", "--yes", "--no-install-recommends"], packages].concat())? {
        return Ok(());
    }
    cx.say.detail("apt-get's lists may be old or missing: apt-get update");
    apt_get(cx, &["update"])?;
    if apt_get(cx, &[&["install", "--yes", "--no-install-recommends"], packages].concat())? {
        return Ok(());
    }
    bail!("apt-get could not install {}: see its output above", packages.join(", "))
}

fn apt_get(cx: &Context, arguments: &[&str]) -> Result<bool> {
    // Set behind sudo, which would drop it.
    let mut command = as_root("env");
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "NEEDRESTART_SUSPEND=1",
        "apt-get",
        "--quiet",
        "--quiet",
    ]);
    cx.show(
        "apt-get",
        command.args(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]).args(arguments),
    )
}

fn is_present(cx: &Context, what: &Present) -> bool {
    match what {
        Present::Program(name) => cx.config.find(name).is_some(),
        Present::File(path) => Path::new(path).exists(),
        Present::Library(name) => crate::process::output(
            "pkg-config",
            Duration::from_secs(20),
            Command::new("pkg-config").args(["--exists", name]),
        )
        .is_ok_and(|output| output.success),
        Present::StaticBusybox => static_busybox(cx).is_some(),
    }
}

/// A busybox that needs no library.
pub fn static_busybox(cx: &Context) -> Option<PathBuf> {
    cx.config.find("busybox").filter(|path| is_static(path))
}

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
