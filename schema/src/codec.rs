//! The payload formats that a device can be registered with.

/// Names a payload format, as the column `devices.codec` holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// One JSON object; numbers are metrics.
    Json,
    /// RFC 8428 in JSON.
    SenmlJson,
    /// RFC 8428 in CBOR.
    SenmlCbor,
    /// One CBOR map, read like [`Codec::Json`].
    Cbor,
    /// Eclipse Sparkplug B payloads.
    SparkplugB,
    /// Fixed fields at fixed places, as a [`Layout`](crate::Layout) in the registry says.
    Binary,
}

impl Codec {
    /// Every codec.
    pub const ALL: [Self; 6] =
        [Self::Json, Self::SenmlJson, Self::SenmlCbor, Self::Cbor, Self::SparkplugB, Self::Binary];

    /// Returns the name used in JSON and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::SenmlJson => "senml+json",
            Self::SenmlCbor => "senml+cbor",
            Self::Cbor => "cbor",
            Self::SparkplugB => "sparkplug-b",
            Self::Binary => "binary",
        }
    }

    /// Reads a name as [`Codec::as_str`] writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_is_found_by_its_own_name_alone() {
        for codec in Codec::ALL {
            assert_eq!(Codec::from_name(codec.as_str()), Some(codec));
        }
        assert_eq!(Codec::from_name("JSON"), None);
        assert_eq!(Codec::from_name(""), None);
    }
}
