//! One signing key of the issuer.

use aws_lc_rs::digest;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::sim::keys::Algorithm;
use crate::sim::public_key::{Material, PublicKey};

/// A key pair.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) public: PublicKey,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    /// A new key pair.
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, Unspecified> {
        match algorithm {
            Algorithm::Rs256 => Self::generate_rsa(algorithm),
            Algorithm::Es256 => Self::generate_ec(algorithm, &ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => Self::generate_ec(algorithm, &ECDSA_P384_SHA384_FIXED_SIGNING),
        }
    }

    fn generate_rsa(algorithm: Algorithm) -> Result<Self, Unspecified> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048)?;
        let public = pair.public_key();
        let kid = kid_of(public.as_der()?.as_ref());
        let n = public.modulus().big_endian_without_leading_zero().to_vec();
        let e = public.exponent().big_endian_without_leading_zero().to_vec();
        let material = Material::Rsa(RsaPublicKeyComponents { n, e });
        Ok(Self { public: PublicKey { kid, algorithm, material }, pair: Pair::Rsa(pair) })
    }

    fn generate_ec(algorithm: Algorithm, signing: &'static EcdsaSigningAlgorithm) -> Result<Self, Unspecified> {
        let pair = EcdsaKeyPair::generate(signing)?;
        let kid = kid_of(pair.public_key().as_der()?.as_ref());
        let material = Material::Ec(pair.public_key().as_ref().to_vec());
        Ok(Self { public: PublicKey { kid, algorithm, material }, pair: Pair::Ec(pair) })
    }

    /// A signature as JWS wants it (RFC 7518 §3.3, §3.4).
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut bytes = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, message, &mut bytes)?;
                Ok(bytes)
            }
            Pair::Ec(pair) => Ok(pair.sign(&rng, message)?.as_ref().to_vec()),
        }
    }
}

/// Keys are named as Kubernetes names its own: base64url of the SHA-256 of the public key's DER.
fn kid_of(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, der))
}
