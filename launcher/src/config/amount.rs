//! How much a run may take: sizes, shares and counts, as people write them.

use super::problem::Problem;
use super::reader::Reader;

/// What a variable says of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Nothing: what the host has, less a reserve.
    OfHost,
    /// That there is none.
    None,
    /// This much.
    At(u64),
}

/// How much a run may take from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    /// Bytes of memory. `GANTRY_MEMORY_LIMIT`.
    pub memory: Limit,
    /// Billionths of a processor. `GANTRY_CPU_LIMIT`.
    pub nano_cpus: Limit,
    /// Processes and threads; none without a limit. `GANTRY_PIDS_LIMIT`, 4096 unless set.
    pub processes: Option<u64>,
    /// Bytes of its `/dev/shm`. `GANTRY_SHM_SIZE`, 64 MiB unless set.
    pub shared_memory: u64,
    /// Bytes that it may have on the host's disks. `GANTRY_DISK_LIMIT`.
    pub disk: Limit,
    /// Bytes that stay free on the host's disks; a part of each disk if none. `GANTRY_DISK_RESERVE`.
    pub disk_reserve: Option<u64>,
}

/// The least memory that an engine takes as a limit, and with which a tool could start.
const LEAST_MEMORY: u64 = 32 << 20;
/// The least share of a processor that an engine takes.
const LEAST_NANO: u64 = 10_000_000;
const MOST_PROCESSORS: f64 = 100_000.0;

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Amounts> {
    let memory = limit(reader, "GANTRY_MEMORY_LIMIT", |text| {
        size(text).filter(|bytes| *bytes >= LEAST_MEMORY).ok_or(Problem::Size("32MiB"))
    });
    let nano_cpus = limit(reader, "GANTRY_CPU_LIMIT", |text| nano(text).ok_or(Problem::Processors));
    let processes = reader.parsed("GANTRY_PIDS_LIMIT", |text| match text {
        "none" => Ok(None),
        text => match text.parse() {
            Ok(count @ 16..=4_000_000) => Ok(Some(count)),
            Ok(_) | Err(_) => Err(Problem::Count),
        },
    });
    let shared_memory = reader.parsed("GANTRY_SHM_SIZE", |text| {
        size(text).filter(|bytes| *bytes >= 1 << 20).ok_or(Problem::Size("1MiB"))
    });
    let disk = limit(reader, "GANTRY_DISK_LIMIT", |text| {
        size(text).filter(|bytes| *bytes >= 1 << 20).ok_or(Problem::Size("1MiB"))
    });
    let disk_reserve =
        match limit(reader, "GANTRY_DISK_RESERVE", |text| size(text).ok_or(Problem::Size("0"))) {
            Some(Limit::OfHost) => Some(None),
            Some(Limit::None) => Some(Some(0)),
            Some(Limit::At(bytes)) => Some(Some(bytes)),
            None => None,
        };
    Some(Amounts {
        memory: memory?,
        nano_cpus: nano_cpus?,
        processes: processes?,
        shared_memory: shared_memory?,
        disk: disk?,
        disk_reserve: disk_reserve?,
    })
}

/// None if it has a mistake.
fn limit(
    reader: &mut Reader<'_>,
    name: &str,
    parse: impl FnOnce(&str) -> Result<u64, Problem>,
) -> Option<Limit> {
    match reader.text(name) {
        None => Some(Limit::OfHost),
        Some("none") => Some(Limit::None),
        Some(_) => reader.optional(name, parse).map(Limit::At),
    }
}

/// `512MiB`, `512m`, `2G`, `2GB`, or bytes: always powers of 1024, as engines take them.
fn size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    i64::try_from(bytes).is_ok().then_some(bytes)
}

/// `2` or `1.5` processors.
fn nano(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let processors: f64 = text.parse().ok().filter(|_| is_plain)?;
    if !(0.0..=MOST_PROCESSORS).contains(&processors) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it was just seen to be within the bounds"
    )]
    let nano = (processors * 1e9).round() as u64;
    (nano >= LEAST_NANO).then_some(nano)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_engines_read_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("512m", 512 << 20),
            ("512MiB", 512 << 20),
            ("2 GB", 2 << 30),
            ("1t", 1 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for wrong in ["", "g", "-1", "1.5g", "1x", "99999999t", "18446744073709551615", "1g1"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn processors_are_read_in_parts() {
        assert_eq!(nano("2"), Some(2_000_000_000));
        assert_eq!(nano("0.5"), Some(500_000_000));
        assert_eq!(nano("1.25"), Some(1_250_000_000));
        for wrong in ["", "0", "0.001", "-1", "1e3", "NaN", "inf", "1.2.3", "1000000"] {
            assert_eq!(nano(wrong), None, "{wrong}");
        }
    }
}
