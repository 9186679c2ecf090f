//! Streams of MQTT packets: as a client sends them, and with lies about lengths, flags, ids and texts in
//! them.

use super::Dice;

/// What texts trip over: NUL, wildcards, broken UTF-8, a surrogate, letters beyond ASCII.
const TEXTS: [&[u8]; 8] =
    [b"", b"a\0b", b"a+", b"#", b"\xc3\x28", b"\xed\xa0\x80", "\u{e9}t\u{e9}/x".as_bytes(), b"\xef\xbb\xbf"];
/// Property ids: what a client may send, what only a server sends, what does not exist.
const PROPERTIES: [u8; 29] = [
    1, 2, 3, 8, 9, 11, 17, 18, 19, 21, 22, 23, 24, 25, 26, 28, 31, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 0,
    127,
];

/// What a parser of MQTT trips over: lengths at their edges, packets in two bytes, properties.
pub(crate) const TOKENS: [&[u8]; 16] = [
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x80, 0x00],
    &[0x80, 0x80, 0x80, 0x00],
    &[0x00, 0x00],
    &[0xff, 0xff],
    &[0xe0, 0x01, 0x00],
    &[0xe0, 0x01, 0x04],
    &[0xe0, 0x00],
    &[0xc0, 0x00],
    &[0x20, 0x03, 0x00, 0x00, 0x00],
    &[0xb0, 0x04, 0x00, 0x01, 0x00, 0x00],
    &[0x26, 0x00, 0x05],
    &[0x0b, 0x80, 0x01],
    &[0x23, 0x00, 0x01],
    "\u{e9}t\u{e9}/x".as_bytes(),
];

/// Writes packets; each length, flag, id and text is a lie once in `lies`, never if that is 0.
struct Writer<'a> {
    dice: &'a mut Dice,
    lies: usize,
    is_v5: bool,
}

/// A CONNECT and up to seven packets after it. Without lies every one of them is a packet that the decoder
/// must take.
pub(crate) fn stream(dice: &mut Dice, is_v5: bool, lies: usize, sensor_id: &str) -> Vec<u8> {
    let mut writer = Writer { dice, lies, is_v5 };
    let mut stream = writer.connect();
    stream.extend(writer.packets(sensor_id));
    stream
}

/// The same without the CONNECT.
pub(crate) fn after_connect(dice: &mut Dice, is_v5: bool, lies: usize, sensor_id: &str) -> Vec<u8> {
    Writer { dice, lies, is_v5 }.packets(sensor_id)
}

/// The bytes of the frame at the start of `stream`, if its length is there: MQTT 5, section 2.1.4, once more
/// and by itself.
pub(crate) fn frame_bytes(stream: &[u8]) -> Option<usize> {
    let mut bytes = 0;
    for (n, byte) in stream.iter().skip(1).take(4).enumerate() {
        bytes |= usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some(1 + n + 1 + bytes);
        }
    }
    None
}

/// A variable byte integer.
pub(crate) fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        bytes.push(if number > 0 { low | 0x80 } else { low });
        if number == 0 {
            return bytes;
        }
    }
}

impl Writer<'_> {
    fn is_lie(&mut self) -> bool {
        self.lies > 0 && self.dice.once_in(self.lies)
    }

    /// A length that is off by a little, or by all that there is.
    fn off(&mut self, length: usize, end: usize) -> usize {
        let near = length.saturating_add(self.dice.below(5)).saturating_sub(2);
        let choices = [near, near, near, 0, end, 127, 128];
        (*self.dice.pick(&choices)).min(end)
    }

    fn length(&mut self, length: usize) -> Vec<u8> {
        if !self.is_lie() {
            return varint(length);
        }
        if self.dice.once_in(4) {
            // More bytes than it needs.
            return [&[u8::try_from(length & 0x7f).unwrap() | 0x80][..], &[0x80, 0x00]].concat();
        }
        let off = self.off(length, (1 << 28) - 1);
        varint(off)
    }

    fn binary(&mut self, bytes: &[u8]) -> Vec<u8> {
        let length = if self.is_lie() { self.off(bytes.len(), 0xffff) } else { bytes.len() };
        [&u16::try_from(length).unwrap().to_be_bytes(), bytes].concat()
    }

    fn text(&mut self, text: &str) -> Vec<u8> {
        let bytes = if self.is_lie() { self.dice.pick(&TEXTS) } else { text.as_bytes() };
        self.binary(bytes)
    }

    fn packet_id(&mut self) -> [u8; 2] {
        let id = if self.is_lie() { 0 } else { 1 + self.dice.below(0xffff) };
        u16::try_from(id).unwrap().to_be_bytes()
    }

    fn frame(&mut self, first: u8, body: &[u8]) -> Vec<u8> {
        let first = if self.is_lie() { first ^ (1 << self.dice.below(8)) } else { first };
        let body = if self.is_lie() { &body[..self.dice.below(body.len() + 1)] } else { body };
        [&[first][..], &self.length(body.len()), body].concat()
    }

    /// A property block of some of `allowed`, once each; nothing at all in 3.1.1.
    fn properties(&mut self, allowed: &[u8]) -> Vec<u8> {
        if !self.is_v5 {
            return Vec::new();
        }
        let mut block = Vec::new();
        for id in allowed {
            if self.dice.once_in(4) {
                block.extend(self.property(*id));
                if *id == 38 || self.is_lie() {
                    block.extend(self.property(*id));
                }
            }
        }
        if self.is_lie() {
            let id = *self.dice.pick(&PROPERTIES);
            block.extend(self.property(id));
        }
        [self.length(block.len()), block].concat()
    }

    fn property(&mut self, id: u8) -> Vec<u8> {
        let number = if self.is_lie() { *self.dice.pick(&[0_u32, 2, 0x7f, u32::MAX]) } else { 1 };
        let value = match id {
            1 | 23 | 25 | 36 | 37 | 40 | 41 | 42 => vec![number.to_be_bytes()[3]],
            19 | 33 | 34 | 35 => number.to_be_bytes()[2..].to_vec(),
            2 | 17 | 24 | 39 => number.to_be_bytes().to_vec(),
            11 => varint(number.min((1 << 28) - 1) as usize),
            9 | 22 => {
                let bytes = self.dice.bytes(8);
                self.binary(&bytes)
            }
            38 => {
                let name = *self.dice.pick(&["event-id", "k"]);
                [self.text(name), self.text("v-1")].concat()
            }
            _ => self.text("text"),
        };
        [&[id][..], &value].concat()
    }

    fn connect(&mut self) -> Vec<u8> {
        let name = self.text("MQTT");
        let level = if self.is_lie() { self.dice.byte() } else { 4 + u8::from(self.is_v5) };
        let (has_will, has_user) = (self.dice.once_in(4), self.dice.once_in(4));
        let flags = 2 | (u8::from(has_will) * 0x04) | (u8::from(has_user) * 0xc0);
        let flags = if self.is_lie() { self.dice.byte() } else { flags };
        let mut body = [name, vec![level, flags, 0, self.dice.byte()]].concat();
        body.extend(self.properties(&[17, 33, 34, 38, 39, 25, 23]));
        body.extend(self.text("client"));
        if has_will {
            body.extend(self.properties(&[1, 2, 3, 8, 9, 24, 38]));
            body.extend(self.text("devices/x/will"));
            body.extend(self.binary(b"gone"));
        }
        if has_user {
            body.extend(self.text("user"));
            body.extend(self.text("password"));
        }
        self.frame(0x10, &body)
    }

    fn packets(&mut self, sensor_id: &str) -> Vec<u8> {
        let count = self.dice.below(8);
        (0..count).flat_map(|_| self.packet(sensor_id)).collect()
    }

    fn packet(&mut self, sensor_id: &str) -> Vec<u8> {
        match self.dice.below(10) {
            0..=4 => self.publish(sensor_id),
            5 => {
                let count = 1 + self.dice.below(4);
                let mut body = [self.packet_id().to_vec(), self.properties(&[38])].concat();
                for _ in 0..count {
                    let filter =
                        *self.dice.pick(&["devices/x/#", "#", "$share/g/a", "a/+/b", "\u{e9}t\u{e9}"]);
                    body.extend(self.text(filter));
                    body.push(if self.is_lie() { self.dice.byte() } else { 1 });
                }
                self.frame(0x82, &body)
            }
            6 => {
                let body = [self.packet_id().to_vec(), self.properties(&[38]), self.text("a/b")].concat();
                self.frame(0xa2, &body)
            }
            7 if self.is_lie() => {
                let (first, body) = (self.dice.byte(), self.dice.bytes(40));
                self.frame(first, &body)
            }
            7 if self.lies > 0 => {
                let reason =
                    if self.is_v5 { [vec![0], self.properties(&[17, 31, 38])].concat() } else { Vec::new() };
                self.frame(0xe0, &reason)
            }
            _ => self.frame(0xc0, &[]),
        }
    }

    fn publish(&mut self, sensor_id: &str) -> Vec<u8> {
        let qos = u8::try_from(self.dice.below(if self.lies > 0 { 3 } else { 2 })).unwrap();
        let own = format!("devices/{sensor_id}/readings");
        let mqtt_topic = match self.dice.below(6) {
            0 => "\u{e9}t\u{e9}/x".to_owned(),
            1 => own + "/NDATA",
            2 => "devices/another-1/readings".to_owned(),
            _ => own,
        };
        let payload = match self.dice.below(4) {
            0 => self.dice.bytes(300),
            1 => b"x".repeat(self.dice.below(3_000)),
            _ => format!(r#"{{"n":{}}}"#, self.dice.below(1_000)).into_bytes(),
        };
        let mut body = self.text(&mqtt_topic);
        if qos > 0 {
            body.extend(self.packet_id());
        }
        body.extend(self.properties(&[1, 2, 3, 8, 9, 38]));
        body.extend(payload);
        self.frame(0x30 | (qos << 1), &body)
    }
}
