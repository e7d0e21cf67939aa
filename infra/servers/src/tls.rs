use crate::{Error, folder::RunFolder, user::User};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::path::PathBuf;

/// The PEM files of a server that speaks TLS, or of all nodes of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) authority: PathBuf,
    pub(crate) own: PathBuf,
    pub(crate) key: PathBuf,
}

/// Makes an authority whose key nobody keeps, and a certificate of it for this machine's loopback addresses.
pub(crate) fn make(folder: &RunFolder, user: Option<User>) -> Result<Certificate, Error> {
    let (authority, own, key) = sign().map_err(Error::Certificate)?;
    Ok(Certificate {
        authority: folder.write("ca.pem", &authority, user)?,
        own: folder.write("certificate.pem", &own, user)?,
        key: folder.write("key.pem", &key, user)?,
    })
}

fn sign() -> Result<(String, String, String), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "Banter's private test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&issuer_key)?;
    let issuer = Issuer::new(authority, issuer_key);
    let key = KeyPair::generate()?;
    let own =
        CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    Ok((authority_certificate.pem(), own.pem(), key.serialize_pem()))
}
