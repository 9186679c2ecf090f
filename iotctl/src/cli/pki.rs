//! `iotctl pki`.

use crate::pki::Pki;
use crate::progress::Progress;
use crate::state::State;
use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Issues a device's certificate, or finds the one it has, and prints where it is and its fingerprint.
    Device {
        /// Its sensor id, which becomes the certificate's common name.
        name: String,
    },
}

/// Prints a device's certificate, and issues it when there is none.
pub(super) fn print_device(state: &State, name: &str, progress: &Progress) -> Result<()> {
    let is_new = !Pki::exists(&state.pki());
    let pki = Pki::open_or_create(&state.pki())?;
    if is_new {
        let ca = pki.device_ca_file();
        progress.note(&format!(
            "made authorities; a gateway takes their devices with TLS_CLIENT_CA_FILE={}",
            ca.display()
        ));
    }
    let files = pki.device_files(name)?;
    println!("ca           {}", pki.ca_file().display());
    println!("certificate  {}", files.cert.display());
    println!("key          {}", files.key.display());
    println!("fingerprint  {}", files.fingerprint_sha256_hex);
    Ok(())
}
