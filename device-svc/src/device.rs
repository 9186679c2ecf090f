//! What a device is and which requests make one. Pure.

use chassis::http::{Change, Fields, Problem, Rules, check_prose};
use schema::{Codec, DeviceStatus, Layout, Timestamp, check_label, check_sensor_id};
use serde::Serialize;
use serde_json::Value;

/// Longest display name, in characters: one line of a list.
const DISPLAY_NAME_CHARS_MAX: usize = 200;
/// Most certificates of a device at one time: the present one, its successor, and room for a fleet that
/// rotates late.
const FINGERPRINTS_MAX: usize = 8;
/// Bytes of a SHA-256.
const FINGERPRINT_BYTES: usize = 32;

/// The codec of a device that is registered without one.
const CODEC_DEFAULT: Codec = Codec::Json;

/// Fields that only the service writes; a registration that names them expects something that will not
/// happen.
const READ_ONLY: [&str; 3] = ["version", "createdAt", "updatedAt"];
const RULES: Rules<'_> = Rules {
    required: &["deviceType", "zoneId"],
    read_only: &["sensorId", "version", "createdAt", "updatedAt"],
};

const STATUSES: [(&str, DeviceStatus); 3] = [
    (DeviceStatus::Active.as_str(), DeviceStatus::Active),
    (DeviceStatus::Suspended.as_str(), DeviceStatus::Suspended),
    (DeviceStatus::Retired.as_str(), DeviceStatus::Retired),
];

/// The resource as it is answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) sensor_id: String,
    pub(crate) display_name: String,
    pub(crate) device_type: String,
    pub(crate) zone_id: String,
    pub(crate) codec: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) codec_layout: Option<Value>,
    pub(crate) status: String,
    pub(crate) fingerprints: Vec<String>,
    pub(crate) version: i64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

impl Device {
    /// Says whether the device is retired, for good.
    pub(crate) fn is_retired(&self) -> bool {
        self.status == DeviceStatus::Retired.as_str()
    }
}

/// What a caller writes beside the sensor id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) display_name: String,
    pub(crate) device_type: String,
    pub(crate) zone_id: String,
    pub(crate) codec: Codec,
    /// The layout as JSON text, with the codec `binary` and no other.
    pub(crate) codec_layout: Option<String>,
    pub(crate) status: DeviceStatus,
    pub(crate) fingerprints: Vec<String>,
}

impl Draft {
    /// Reads and checks a registration; returns the sensor id beside it.
    ///
    /// # Errors
    /// 400 that names every bad field.
    pub(crate) fn registration(mut fields: Fields) -> Result<(String, Self), Problem> {
        let sensor_id = fields.text("sensorId", check_sensor_id);
        fields.or("codec", CODEC_DEFAULT.as_str());
        fields.or("status", DeviceStatus::Active.as_str());
        fields.or("fingerprints", Vec::<Value>::new());
        for name in READ_ONLY {
            fields.refuse(name, "is set by the service; leave it out");
        }
        Ok((sensor_id, Self::read(fields)?))
    }

    /// Applies a change to a device: what is not named stays, so that renaming a suspended device does not
    /// let it in again. A layout goes with the codec that it belongs to.
    ///
    /// # Errors
    /// 400 that names every bad field; 412 for another version.
    pub(crate) fn changed(device: &Device, change: Change) -> Result<Self, Problem> {
        let mut device = device.clone();
        if change.member("codec").is_some_and(|codec| codec != Codec::Binary.as_str()) {
            device.codec_layout = None;
        }
        Self::read(change.apply(&device, RULES)?)
    }

    fn read(mut fields: Fields) -> Result<Self, Problem> {
        let name = |text: &str| check_prose(text, DISPLAY_NAME_CHARS_MAX);
        let display_name = fields.text_optional("displayName", name).unwrap_or_default();
        let device_type = fields.text("deviceType", check_label);
        let zone_id = fields.text("zoneId", check_label);
        let (codec, codec_layout) = take_codec(&mut fields);
        let draft = Self {
            display_name,
            device_type,
            zone_id,
            codec,
            codec_layout,
            status: fields.one_of("status", &STATUSES),
            fingerprints: take_fingerprints(&mut fields),
        };
        fields.finish()?;
        Ok(draft)
    }
}

/// Which devices a list is about.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) status: Option<DeviceStatus>,
    pub(crate) device_type: Option<String>,
    pub(crate) zone_id: Option<String>,
}

impl Filter {
    /// Takes the filters of a query string.
    pub(crate) fn take(fields: &mut Fields) -> Self {
        Self {
            status: fields.one_of_optional("status", &STATUSES),
            device_type: fields.text_optional("deviceType", check_label),
            zone_id: fields.text_optional("zoneId", check_label),
        }
    }
}

/// Takes the codec and what belongs to it, so that no device is registered whose readings all go to the dead
/// letters.
fn take_codec(fields: &mut Fields) -> (Codec, Option<String>) {
    let words = Codec::ALL.map(|codec| (codec.as_str(), codec));
    let codec = fields.one_of("codec", &words);
    let layout = fields.take("codecLayout").map(|layout| layout.to_string());
    match &layout {
        _ if fields.is_bad("codec") => {}
        Some(layout) if codec == Codec::Binary => {
            for problem in Layout::parse(layout).err().unwrap_or_default() {
                fields.problem("codecLayout", problem);
            }
        }
        None if codec == Codec::Binary => fields.problem("codecLayout", "is required with the codec binary"),
        Some(_) => fields.problem("codecLayout", "belongs to the codec binary; send that with it"),
        None => {}
    }
    (codec, layout)
}

fn take_fingerprints(fields: &mut Fields) -> Vec<String> {
    let texts = match fields.take("fingerprints") {
        Some(Value::Array(texts)) if texts.len() <= FINGERPRINTS_MAX => texts,
        Some(Value::Array(_)) => {
            fields.problem("fingerprints", format!("must be at most {FINGERPRINTS_MAX}"));
            return Vec::new();
        }
        Some(_) | None => {
            fields.problem("fingerprints", "must be a list of texts; an empty one removes them all");
            return Vec::new();
        }
    };
    let mut fingerprints = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match text.as_str().and_then(normalise) {
            Some(known) if fingerprints.contains(&known) => {}
            Some(fingerprint) => fingerprints.push(fingerprint),
            None => fields.problem(format!("fingerprints[{index}]"), "must be a SHA-256 in hex"),
        }
    }
    fingerprints
}

/// Reads a SHA-256 in hex of either case, with a colon between bytes or without, as tools print it.
fn normalise(text: &str) -> Option<String> {
    let colons = text.len() == 3 * FINGERPRINT_BYTES - 1;
    let hex = if colons {
        let pairs: Vec<_> = text.split(':').collect();
        pairs.iter().all(|pair| pair.len() == 2).then(|| pairs.concat())?
    } else {
        text.to_owned()
    };
    let valid = hex.len() == 2 * FINGERPRINT_BYTES && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| hex.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_print_them() {
        let plain = "0123456789abcdef".repeat(4);
        let upper = plain.to_uppercase();
        let pairs: Vec<_> =
            upper.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
        let colons = pairs.join(":");
        for text in [&plain, &upper, &colons] {
            assert_eq!(normalise(text), Some(plain.clone()), "{text}");
        }
        let moved = colons.replacen("01:", "0:1", 1);
        for text in
            ["", ":", &plain[1..], &format!("{plain}0"), &plain.replace('0', "g"), &moved, &"é".repeat(32)]
        {
            assert_eq!(normalise(text), None, "{text}");
        }
        assert_eq!(normalise(&":".repeat(95)), None);
    }

    fn registered(more: &str) -> Result<Draft, Problem> {
        let json = format!(r#"{{"sensorId":"s","deviceType":"T","zoneId":"z"{more}}}"#);
        Draft::registration(Fields::of_json(json.as_bytes()).unwrap()).map(|(_, draft)| draft)
    }

    #[test]
    fn a_layout_comes_with_the_codec_binary_and_no_other() {
        let layout = r#","codecLayout":{"length":2,"fields":[{"metric":"t","at":0,"type":"i16be"}]}"#;
        for codec in Codec::ALL {
            let named = format!(r#","codec":"{}""#, codec.as_str());
            assert_eq!(registered(&named).is_ok(), codec != Codec::Binary, "{named}");
            assert_eq!(registered(&format!("{named}{layout}")).is_ok(), codec == Codec::Binary, "{named}");
        }
        for bad in [
            layout,
            r#","codec":"binary","codecLayout":{"fields":[{"metric":"t","at":-1}]}"#,
            r#","codec":"morse""#,
        ] {
            let field = registered(bad).unwrap_err().errors[0].field.clone();
            assert!(field.starts_with("codec"), "{bad}: {field}");
        }
    }
}
