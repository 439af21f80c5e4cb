//! `verify_signature` and `sign`: RSA PKCS#1 v1.5 and ECDSA with ASN.1 signatures, whichever the key is.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, RsaEncoding, RsaKeyPair, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Outcome;
use crate::abi::Status;
use crate::proto;

type Verifiers = &'static [&'static dyn VerificationAlgorithm];

/// Every algorithm that a key may be meant for with this hash.
fn verifiers(hash: &str) -> Option<Verifiers> {
    Some(match hash {
        "sha1" => &[
            &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
            &signature::ECDSA_P256_SHA1_ASN1,
            &signature::ECDSA_P521_SHA1_ASN1,
        ],
        "sha224" => &[&signature::ECDSA_P521_SHA224_ASN1],
        "sha256" => &[
            &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
            &signature::ECDSA_P256_SHA256_ASN1,
            &signature::ECDSA_P384_SHA256_ASN1,
            &signature::ECDSA_P521_SHA256_ASN1,
        ],
        "sha384" => &[
            &signature::RSA_PKCS1_2048_8192_SHA384,
            &signature::ECDSA_P256_SHA384_ASN1,
            &signature::ECDSA_P384_SHA384_ASN1,
            &signature::ECDSA_P521_SHA384_ASN1,
        ],
        "sha512" => &[
            &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
            &signature::ECDSA_P256_SHA512_ASN1,
            &signature::ECDSA_P384_SHA512_ASN1,
            &signature::ECDSA_P521_SHA512_ASN1,
        ],
        _ => return None,
    })
}

/// `1: string hash_function, 2: bytes public_key, 3: bytes signature, 4: bytes text, 5: string public_key_pem` →
/// `1: bool result, 2: string error`. Only arguments that are no message are a status of their own.
pub(super) fn verify(arguments: &[u8]) -> Outcome {
    let fields = proto::fields(arguments).ok_or(Status::BadArgument)?;
    let get = |number| proto::bytes(&fields, number);
    let hash = String::from_utf8_lossy(get(1));
    let error = match (verifiers(&hash), key(get(2), get(5))) {
        (None, _) => Some(format!("{hash} is not supported.")),
        (_, Err(error)) => Some(error),
        (Some(algorithms), Ok(key)) => {
            let holds = |algorithm: &&'static dyn VerificationAlgorithm| {
                signature::UnparsedPublicKey::new(*algorithm, &key).verify(get(4), get(3)).is_ok()
            };
            (!algorithms.iter().any(holds)).then(|| "Failed to verify digital signature.".to_owned())
        }
    };
    let mut out = Vec::new();
    proto::put_bool(&mut out, 1, error.is_none());
    if let Some(error) = error {
        proto::put_bytes(&mut out, 2, error.as_bytes());
    }
    Ok(out)
}

/// `1: string hash_function, 2: bytes private_key, 3: bytes text, 4: string private_key_pem` →
/// `1: bool result, 2: bytes signature, 3: string error`.
pub(super) fn sign(arguments: &[u8]) -> Outcome {
    let fields = proto::fields(arguments).ok_or(Status::BadArgument)?;
    let get = |number| proto::bytes(&fields, number);
    let hash = String::from_utf8_lossy(get(1));
    let signed = key(get(2), get(4)).and_then(|key| sign_with(&hash, &key, get(3)));
    let mut out = Vec::new();
    proto::put_bool(&mut out, 1, signed.is_ok());
    match signed {
        Ok(signature) => proto::put_bytes(&mut out, 2, &signature),
        Err(error) => proto::put_bytes(&mut out, 3, error.as_bytes()),
    }
    Ok(out)
}

fn sign_with(hash: &str, key: &[u8], text: &[u8]) -> Result<Vec<u8>, String> {
    let (rsa, ecdsa): (&'static dyn RsaEncoding, &'static [&'static EcdsaSigningAlgorithm]) = match hash {
        "sha256" => (
            &signature::RSA_PKCS1_SHA256,
            &[&signature::ECDSA_P256_SHA256_ASN1_SIGNING, &signature::ECDSA_P521_SHA256_ASN1_SIGNING],
        ),
        "sha384" => (
            &signature::RSA_PKCS1_SHA384,
            &[&signature::ECDSA_P384_SHA384_ASN1_SIGNING, &signature::ECDSA_P521_SHA384_ASN1_SIGNING],
        ),
        "sha512" => (&signature::RSA_PKCS1_SHA512, &[&signature::ECDSA_P521_SHA512_ASN1_SIGNING]),
        _ => return Err(format!("{hash} is not supported.")),
    };
    let random = SystemRandom::new();
    if let Ok(pair) = RsaKeyPair::from_pkcs8(key).or_else(|_| RsaKeyPair::from_der(key)) {
        let mut out = vec![0; pair.public_modulus_len()];
        return match pair.sign(rsa, &random, text, &mut out) {
            Ok(()) => Ok(out),
            Err(_) => Err("Failed to sign.".to_owned()),
        };
    }
    for algorithm in ecdsa {
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, key)
            .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, key));
        if let Ok(signature) = pair.map_err(drop).and_then(|p| p.sign(&random, text).map_err(drop)) {
            return Ok(signature.as_ref().to_vec());
        }
    }
    Err("Failed to parse the private key, or it does not go with the hash function.".to_owned())
}

/// The key's DER bytes, given as such or in PEM; exactly one of the two.
fn key(der: &[u8], pem: &[u8]) -> Result<Vec<u8>, String> {
    match (der, pem) {
        ([], []) => Err("no key is given".to_owned()),
        (der, []) => Ok(der.to_vec()),
        ([], pem) => decode_pem(pem).ok_or_else(|| "Failed to parse the PEM key.".to_owned()),
        _ => Err("only one of the two forms of a key can be given".to_owned()),
    }
}

fn decode_pem(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let body = text.split("-----").nth(2)?;
    let compact: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::signature::KeyPair as _;

    use super::*;

    fn arguments(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        parts.iter().for_each(|(number, bytes)| proto::put_bytes(&mut out, *number, bytes));
        out
    }

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN KEY-----\n{}\n-----END KEY-----\n", STANDARD.encode(der))
    }

    /// `(result, signature, error)` of `sign`; `(result, error, "")` of `verify`.
    fn reply(bytes: &[u8]) -> (bool, Vec<u8>, String) {
        let fields = proto::fields(bytes).unwrap();
        let error = String::from_utf8_lossy(proto::bytes(&fields, 3)).into_owned();
        (proto::number(&fields, 1) == 1, proto::bytes(&fields, 2).to_vec(), error)
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        let rsa = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let rsa =
            (rsa.as_der().unwrap().as_ref().to_vec(), rsa.public_key().as_der().unwrap().as_ref().to_vec());
        let ec = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let ec_private = ec.to_pkcs8v1().unwrap().as_ref().to_vec();
        let ec = (ec_private, ec.public_key().as_der().unwrap().as_ref().to_vec());
        for (private, public) in [rsa, ec] {
            let (ok, signed, error) =
                reply(&sign(&arguments(&[(1, b"sha256"), (2, &private), (3, b"text")])).unwrap());
            assert!(ok, "{error}");
            let verify = |hash: &[u8], key: &[u8], text: &[u8]| {
                reply(&verify(&arguments(&[(1, hash), (2, key), (3, &signed), (4, text)])).unwrap())
            };
            assert!(verify(b"sha256", &public, b"text").0);
            assert!(!verify(b"sha256", &public, b"texts").0);
            assert!(!verify(b"sha512", &public, b"text").0);
            assert!(!verify(b"sha256", b"no key", b"text").0);
            assert_eq!(verify(b"unknown", &public, b"text").1, b"unknown is not supported.");
            let by_pem =
                arguments(&[(1, b"sha256"), (5, pem(&public).as_bytes()), (3, &signed), (4, b"text")]);
            assert!(reply(&super::verify(&by_pem).unwrap()).0);
            let (ok, ..) =
                reply(&sign(&arguments(&[(1, b"sha256"), (4, pem(&private).as_bytes())])).unwrap());
            assert!(ok);
        }
    }

    #[test]
    fn bad_arguments_have_words() {
        assert_eq!(verify(b"\xff"), Err(Status::BadArgument));
        assert_eq!(sign(b"\xff"), Err(Status::BadArgument));
        assert_eq!(reply(&sign(&arguments(&[(1, b"md5"), (2, b"k")])).unwrap()).2, "md5 is not supported.");
        assert_eq!(reply(&sign(&arguments(&[(1, b"sha256")])).unwrap()).2, "no key is given");
        let both = arguments(&[(1, b"sha256"), (2, b"a"), (4, b"b")]);
        assert!(reply(&sign(&both).unwrap()).2.contains("only one"));
    }
}
