//! Sealed files: who opens them, and that no changed one opens.

use std::io::{self, Read, Write};

use gantry_protocol::{
    Digest, Header, HeaderError, MAX_BYTES, MAX_RECIPIENTS, OpenError, Recipient, RewrapError,
    SealError, SealedBytes, open, open_bytes, rewrap, seal, seal_bytes, split,
};
use proptest::prelude::*;

use crate::support::{KEY, OTHER_KEY, TOKEN, recipient};

const CHUNK: usize = 64 * 1024;
const SEALED_CHUNK: usize = CHUNK + 16;
const NONCE: usize = 16;

/// Sizes around the borders of chunks.
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..300_usize,
        (1..4_usize, -20..20_i32).prop_map(|(chunks, more)| (chunks * CHUNK)
            .checked_add_signed(isize::try_from(more).unwrap())
            .unwrap()),
        0..4 * CHUNK,
    ]
}

/// Bytes in which no two chunks are equal.
fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

fn sealed(len: usize) -> SealedBytes {
    seal_bytes(&[recipient(&KEY)], &bytes(len)).unwrap()
}

fn opened(header: &Header, payload: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut plain = Vec::new();
    open(&[&KEY], header, payload)?.read_to_end(&mut plain).map_err(OpenError::from_io)?;
    Ok(plain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_sealed_opens(len in sizes(), piece in 1..200_000_usize) {
        let plain = bytes(len);
        let mut payload = Vec::new();
        let mut sealer = seal(&[recipient(&KEY)], &mut payload).unwrap();
        for piece in plain.chunks(piece) {
            sealer.write_all(piece).unwrap();
            sealer.flush().unwrap();
        }
        let sealed = sealer.finish().unwrap();
        prop_assert_eq!(sealed.payload_len, payload.len() as u64);
        prop_assert_eq!(sealed.payload_sha256, Digest::of(&payload));
        prop_assert_eq!(payload.len(), NONCE + len + len.div_ceil(CHUNK).max(1) * 16);
        prop_assert_eq!(&opened(&sealed.header, &payload).unwrap(), &plain);
        let whole = open_bytes(&[&OTHER_KEY, &KEY], &sealed.header, &payload).unwrap();
        prop_assert_eq!(&*whole, &plain);
        let mut slow = Slowly(&payload);
        let mut again = Vec::new();
        open(&[&KEY], &sealed.header, &mut slow).unwrap().read_to_end(&mut again).unwrap();
        prop_assert_eq!(again, plain);
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(
        len in sizes(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
    ) {
        let sealed = sealed(len);
        let mut payload = sealed.payload.clone();
        let len = payload.len();
        payload[at.index(len)] ^= 1 << bit;
        let refused = opened(&sealed.header, &payload);
        prop_assert!(matches!(refused, Err(OpenError::PayloadChanged)), "{:?}", refused);
        prop_assert!(open_bytes(&[&KEY], &sealed.header, &payload).is_err());

        let mut header = sealed.header.as_bytes().to_vec();
        let len = header.len();
        header[at.index(len)] ^= 1 << bit;
        if let Ok(header) = Header::parse(&header) {
            let refused = opened(&header, &sealed.payload);
            let is_refused = matches!(
                refused, Err(OpenError::HeaderChanged | OpenError::NotARecipient { .. })
            );
            prop_assert!(is_refused, "{:?}", refused);
        }
    }

    #[test]
    fn nothing_is_missing_and_nothing_added(
        len in sizes(), at in any::<prop::sample::Index>(), more in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let sealed = sealed(len);
        let cut = &sealed.payload[..at.index(sealed.payload.len())];
        let refused = opened(&sealed.header, cut);
        prop_assert!(matches!(refused, Err(OpenError::PayloadChanged)), "{:?}", refused);
        let longer = [&sealed.payload[..], &more].concat();
        let refused = opened(&sealed.header, &longer);
        prop_assert!(matches!(refused, Err(OpenError::PayloadChanged)), "{:?}", refused);
        let header = sealed.header.as_bytes();
        prop_assert!(Header::parse(&header[..at.index(header.len())]).is_err());
        prop_assert!(Header::parse(&[header, &more].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_answered(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Header::parse(&noise).is_err());
        prop_assert!(SealedBytes::from_file(&noise).is_err());
        let after = [b"age-encryption.org/v1\n".as_slice(), &noise].concat();
        prop_assert!(Header::parse(&after).is_err());
        prop_assert!(split(&after[..]).is_err());
    }

    #[test]
    fn any_lines_are_answered(
        lines in prop::collection::vec("(-> |--- |-|)(ssh-rsa |X25519 |)[A-Za-z0-9+/]{0,65}[ =\r]?", 0..8)
    ) {
        let text = format!("age-encryption.org/v1\n{}\n", lines.join("\n"));
        // Whatever is taken as a header is not opened by our key.
        if let Ok(header) = Header::parse(text.as_bytes()) {
            prop_assert_eq!(header.as_bytes(), text.as_bytes());
            prop_assert!(opened(&header, &[0; 100]).is_err());
        }
    }
}

/// Gives one byte less than it could, and is interrupted in between.
struct Slowly<'a>(&'a [u8]);

impl Read for Slowly<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.len() % 5 == 4 && into.len() > 1 {
            let len = into.len().min(2);
            return self.0.read(&mut into[..len]);
        }
        let len = into.len().div_ceil(2);
        self.0.read(&mut into[..len])
    }
}

#[test]
fn a_payload_cut_between_two_chunks_is_refused() {
    let sealed = sealed(2 * CHUNK);
    for end in [NONCE, NONCE + SEALED_CHUNK] {
        let refused = opened(&sealed.header, &sealed.payload[..end]);
        assert!(matches!(refused, Err(OpenError::PayloadChanged)), "{refused:?}");
    }
}

#[test]
fn chunks_cannot_be_swapped_doubled_or_taken_from_another_payload() {
    let (one, two) = (sealed(3 * CHUNK), sealed(3 * CHUNK));
    let chunk = |of: &SealedBytes, at: usize| {
        of.payload[NONCE + at * SEALED_CHUNK..NONCE + (at + 1) * SEALED_CHUNK].to_vec()
    };
    let nonce = one.payload[..NONCE].to_vec();
    let cases = [
        [nonce.clone(), chunk(&one, 1), chunk(&one, 0), chunk(&one, 2)].concat(),
        [nonce.clone(), chunk(&one, 0), chunk(&one, 0), chunk(&one, 1), chunk(&one, 2)].concat(),
        [nonce.clone(), chunk(&one, 0), chunk(&two, 1), chunk(&one, 2)].concat(),
        [nonce, chunk(&one, 0), chunk(&one, 2)].concat(),
        two.payload,
    ];
    for payload in cases {
        let refused = opened(&one.header, &payload);
        assert!(matches!(refused, Err(OpenError::PayloadChanged)), "{refused:?}");
    }
}

#[test]
fn a_reader_gives_nothing_after_it_was_refused() {
    let mut sealed = sealed(2 * CHUNK);
    sealed.payload[NONCE + SEALED_CHUNK + 5] ^= 1;
    let mut opener = open(&[&KEY], &sealed.header, &sealed.payload[..]).unwrap();
    let mut plain = vec![0; CHUNK];
    opener.read_exact(&mut plain).unwrap();
    assert_eq!(plain, bytes(CHUNK));
    assert!(opener.read(&mut plain).is_err());
    assert!(opener.read(&mut plain).is_err());
}

#[test]
fn only_recipients_open_it() {
    let sealed = seal_bytes(&[recipient(&OTHER_KEY)], b"secret").unwrap();
    let refused = open_bytes(&[&KEY], &sealed.header, &sealed.payload).unwrap_err();
    let OpenError::NotARecipient { recipients, keys } = &refused else { panic!("{refused:?}") };
    assert_eq!(
        (recipients.as_slice(), keys.as_slice()),
        ([recipient(&OTHER_KEY).tag()].as_slice(), [recipient(&KEY).tag()].as_slice())
    );
    assert!(matches!(sealed.open(&[]), Err(OpenError::NotARecipient { .. })));
    assert_eq!(*sealed.open(&[&KEY, &OTHER_KEY]).unwrap(), b"secret");
}

#[test]
fn a_durable_thing_has_several_recipients() {
    let both = [recipient(&KEY), recipient(&OTHER_KEY), recipient(&KEY)];
    let sealed = seal_bytes(&both, b"state").unwrap();
    assert_eq!(sealed.header.tags().len(), 2, "one that is named twice is there once");
    assert!(both.iter().all(|recipient| sealed.header.names(recipient)));
    assert_eq!(*sealed.open(&[&KEY]).unwrap(), b"state");
    assert_eq!(*sealed.open(&[&OTHER_KEY]).unwrap(), b"state");
}

#[test]
fn a_recipient_is_known_by_its_certificate() {
    let by_certificate = Recipient::parse(TOKEN.certificate().as_bytes()).unwrap();
    assert_eq!(by_certificate, recipient(&KEY));
    assert!(Recipient::parse(b"pool").is_err());
}

#[test]
fn rewrapping_leaves_the_payload_and_changes_who_opens_it() {
    let sealed = sealed(100_000);
    let header = rewrap(&sealed.header, &[&KEY], &[recipient(&OTHER_KEY)]).unwrap();
    let plain = open_bytes(&[&OTHER_KEY], &header, &sealed.payload).unwrap();
    assert_eq!(*plain, bytes(100_000));
    let refused = open_bytes(&[&KEY], &header, &sealed.payload);
    assert!(matches!(refused, Err(OpenError::NotARecipient { .. })));
    let refused = rewrap(&sealed.header, &[&OTHER_KEY], &[recipient(&OTHER_KEY)]);
    assert!(matches!(refused, Err(RewrapError::Open(OpenError::NotARecipient { .. }))));
    let refused = rewrap(&sealed.header, &[&KEY], &[]);
    assert!(matches!(refused, Err(RewrapError::Seal(SealError::NoRecipients))));
}

#[test]
fn a_header_of_another_thing_does_not_open_it() {
    let (one, two) = (sealed(10), sealed(10));
    let refused = open_bytes(&[&KEY], &two.header, &one.payload);
    assert!(matches!(refused, Err(OpenError::PayloadChanged)));
}

#[test]
fn a_header_is_text_where_it_must_be() {
    let sealed = sealed(10);
    let json = serde_json::to_string(&sealed).unwrap();
    assert_eq!(serde_json::from_str::<SealedBytes>(&json).unwrap(), sealed);
    let text = sealed.header.to_string();
    assert_eq!(text.parse::<Header>().unwrap(), sealed.header);
    assert!(matches!("?".parse::<Header>(), Err(HeaderError::NotBase64)));
    assert!(matches!("A".repeat(1 << 20).parse::<Header>(), Err(HeaderError::TooLong)));
}

#[test]
fn a_whole_file_is_taken_apart_and_put_together() {
    let sealed = sealed(100_000);
    let file = sealed.to_file();
    assert_eq!(SealedBytes::from_file(&file).unwrap(), sealed);
    let (header, mut rest) = split(&file[..]).unwrap();
    let mut payload = Vec::new();
    rest.read_to_end(&mut payload).unwrap();
    assert_eq!((header, payload), (sealed.header, sealed.payload));
}

#[test]
fn what_is_no_sealed_file_is_told_apart() {
    let refused = |file: &[u8]| split(file).map(drop).unwrap_err();
    assert!(matches!(refused(b""), HeaderError::NotSealed));
    assert!(matches!(refused(b"{}"), HeaderError::NotSealed));
    assert!(matches!(refused(b"age-encryption.org/v2\n"), HeaderError::OtherVersion));
    assert!(matches!(refused(b"age-encryption.org/v1"), HeaderError::Incomplete));
    assert!(matches!(refused(b"age-encryption.org/v1\n"), HeaderError::Incomplete));
    let armored = b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdl\n";
    assert!(matches!(refused(armored), HeaderError::Armored));
    let no_recipient = format!("age-encryption.org/v1\n--- {}\n", "A".repeat(43));
    assert!(matches!(refused(no_recipient.as_bytes()), HeaderError::Malformed { line: 2 }));
    let endless = [b"age-encryption.org/v1\n-> a\n".as_slice(), &vec![b'A'; 1 << 20]].concat();
    assert!(matches!(refused(&endless), HeaderError::TooLong));
    let stanzas = "-> a\n\n".repeat(MAX_RECIPIENTS + 1);
    let crowded = format!("age-encryption.org/v1\n{stanzas}--- {}\n", "A".repeat(43));
    assert!(matches!(refused(crowded.as_bytes()), HeaderError::TooManyRecipients));
}

#[test]
fn base64_in_a_header_has_one_spelling() {
    let header = String::from_utf8(sealed(1).header.as_bytes().to_vec()).unwrap();
    let (before, code) = header.rsplit_once("--- ").unwrap();
    // 43 characters have two bits to spare: the last one differs in these alone.
    let code = code.trim_end();
    let last = code.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let at = alphabet.find(last).unwrap();
    let sloppy = format!("{before}--- {}{}\n", &code[..42], &alphabet[at + 1..at + 2]);
    assert!(Header::parse(sloppy.as_bytes()).is_err());
    assert!(Header::parse(format!("{before}--- {code}=\n").as_bytes()).is_err());
    assert!(Header::parse(header.replace('\n', "\r\n").as_bytes()).is_err());
}

#[test]
fn nobody_and_too_many_are_no_recipients() {
    assert!(matches!(seal_bytes(&[], b"x"), Err(SealError::NoRecipients)));
    let large = vec![0; MAX_BYTES + 1];
    assert!(matches!(seal_bytes(&[recipient(&KEY)], &large), Err(SealError::TooLong(_))));
    let payload = vec![0; MAX_BYTES + MAX_BYTES / 1000];
    let refused = open_bytes(&[&KEY], &sealed(1).header, &payload);
    assert!(matches!(refused, Err(OpenError::TooLong(_))));
}

/// Takes so many bytes, then none.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_payload_that_failed_is_never_finished() {
    let mut sealer = seal(&[recipient(&KEY)], Full(SEALED_CHUNK + NONCE)).unwrap();
    let error = sealer.write_all(&bytes(3 * CHUNK)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(sealer.write(b"more").is_err());
    assert!(sealer.finish().is_err());
    assert!(matches!(seal(&[recipient(&KEY)], Full(0)), Err(SealError::Io(_))));
}

#[test]
fn a_reader_s_own_error_stays_its_own() {
    struct Gone;
    impl Read for Gone {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let sealed = sealed(2 * CHUNK);
    let broken = sealed.payload[..NONCE + 100].chain(Gone);
    let mut opener = open(&[&KEY], &sealed.header, broken).unwrap();
    let error = opener.read(&mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(matches!(OpenError::from_io(error), OpenError::Io(_)));
}
