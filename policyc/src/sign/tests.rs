//! Every byte of a signed bundle is under its signature, and nobody else's signature will do.

use super::*;
use crate::{inventory::Inventory, ir::Program};

fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

fn bundle() -> Vec<u8> {
    bundle::write(&Program::default(), &Inventory::default(), 7).expect("it is small")
}

#[test]
fn a_signature_of_any_trusted_key_is_accepted_and_reproducible() {
    let signed = sign(&bundle(), &key(1), false).expect("a whole bundle");
    assert_eq!(signed.len(), bundle().len() + TRAILER);
    assert_eq!(sign(&signed, &key(1), false), Ok(signed.clone()), "again");
    let trusted = [key(2).verifying_key(), key(1).verifying_key()];
    assert_eq!(verify(&signed, &trusted), Ok(&trusted[1]));
    let read = bundle::read(&signed).expect("a signature does not change what a bundle holds");
    assert_eq!(read.program, Program::default());
    assert_eq!(
        read.signer.as_deref(),
        Some(&*fingerprint(trusted[1].as_bytes()))
    );
}

#[test]
fn nobody_else_is_accepted() {
    let signed = sign(&bundle(), &key(1), false).expect("a whole bundle");
    let stranger = [key(2).verifying_key()];
    assert!(matches!(
        verify(&signed, &stranger),
        Err(SignError::Stranger(_))
    ));
    assert!(matches!(verify(&signed, &[]), Err(SignError::Stranger(_))));
    assert_eq!(verify(&bundle(), &stranger), Err(SignError::Unsigned));
    // Somebody else's signature under the trusted key's name.
    let mut forged = sign(&bundle(), &key(2), false).expect("a whole bundle");
    let at = bundle().len() + MAGIC.len();
    forged[at..at + 32].copy_from_slice(key(1).verifying_key().as_bytes());
    let trusted = [key(1).verifying_key()];
    assert!(matches!(
        verify(&forged, &trusted),
        Err(SignError::Mismatch(_))
    ));
}

#[test]
fn no_byte_can_be_changed_cut_off_or_added() {
    let trusted = [key(1).verifying_key()];
    let signed = sign(&bundle(), &key(1), false).expect("a whole bundle");
    for at in 0..signed.len() {
        let mut changed = signed.clone();
        changed[at] ^= 0x10;
        assert!(
            verify(&changed, &trusted).is_err(),
            "byte {at} is not covered"
        );
    }
    for length in 0..signed.len() {
        assert!(
            verify(&signed[..length], &trusted).is_err(),
            "cut to {length}"
        );
    }
    for more in [&b"x"[..], &signed[bundle().len()..], &[0; TRAILER]] {
        let longer = [&signed, more].concat();
        assert_eq!(
            verify(&longer, &trusted),
            Err(SignError::Bundle(BundleError::Trailing(
                (TRAILER + more.len()) as u64
            )))
        );
        assert!(bundle::read(&longer).is_err());
    }
}

/// The generation stands in the header, which the payload's own checksum does not cover.
#[test]
fn a_changed_generation_is_noticed() {
    let mut signed = sign(&bundle(), &key(1), false).expect("a whole bundle");
    signed[16] = 8;
    assert_eq!(bundle::read(&signed).map(|b| b.generation), Ok(8));
    let trusted = [key(1).verifying_key()];
    let answer = verify(&signed, &trusted);
    assert!(matches!(answer, Err(SignError::Mismatch(_))), "{answer:?}");
}

#[test]
fn another_signature_takes_the_place_only_when_told() {
    let signed = sign(&bundle(), &key(1), false).expect("a whole bundle");
    assert!(matches!(
        sign(&signed, &key(2), false),
        Err(SignError::Signed(_))
    ));
    let replaced = sign(&signed, &key(2), true).expect("told to");
    assert!(verify(&replaced, &[key(2).verifying_key()]).is_ok());
    assert!(sign(b"no bundle", &key(1), false).is_err());
}

#[test]
fn keys_are_read_back_and_others_are_told_apart() {
    let (private, public) = generate().expect("random bytes");
    let (other, _) = generate().expect("random bytes");
    assert_ne!(private, other, "no key twice");
    let read = private_key(&private).expect("it was just made");
    assert_eq!(public_keys(&public), Ok(vec![read.verifying_key()]));
    let two = format!("# the new one\n{public}\n# the old one\n{public}");
    assert_eq!(public_keys(&two).map(|keys| keys.len()), Ok(2));
    assert_eq!(public_keys(&private), Err(KeyError::Private));
    assert_eq!(private_key(&public).err(), Some(KeyError::Public));
    assert_eq!(public_keys("").err(), Some(KeyError::None("PUBLIC KEY")));
    assert_eq!(private_key("x").err(), Some(KeyError::None("PRIVATE KEY")));
    let encrypted = private.replace("PRIVATE", "ENCRYPTED PRIVATE");
    assert_eq!(private_key(&encrypted).err(), Some(KeyError::Encrypted));
    let broken = public.replace("MCow", "MCox");
    assert!(matches!(public_keys(&broken), Err(KeyError::Other(_))));
    let certificate = format!("{public}-----BEGIN CERTIFICATE-----\n");
    assert!(public_keys(&certificate).is_err(), "nothing is passed over");
}
