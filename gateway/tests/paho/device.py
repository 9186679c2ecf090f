"""A device that speaks through paho-mqtt: does what sensors do, right and wrong, and prints as JSON what it was told.

Usage: device.py VERSION PORT FOLDER SENSOR_ID
VERSION is 4 or 5; FOLDER holds ca.pem, SENSOR_ID.pem and SENSOR_ID.key.
"""

import json
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 60
KEEP_ALIVE_S = 5
WINDOW = 20
MESSAGES = 100

version, port, folder, sensor_id = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
topic = f"devices/{sensor_id}/readings"


def text(properties):
    return getattr(properties, "ReasonString", None)


class Device:
    """One connection, and what came over it, in order."""

    def __init__(self, client_id):
        self.events = queue.Queue()
        client = self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False
        )
        client.tls_set(f"{folder}/ca.pem", f"{folder}/{sensor_id}.pem", f"{folder}/{sensor_id}.key")
        client.max_inflight_messages_set(WINDOW)
        put = lambda *event: self.events.put(event)
        client.on_connect = lambda _c, _u, flags, code, props: put("connected", code.value, props)
        client.on_publish = lambda _c, _u, mid, code, props: put("published", mid, code.value, text(props))
        client.on_subscribe = lambda _c, _u, mid, codes, props: put(
            "subscribed", [code.value for code in codes], text(props)
        )
        client.on_disconnect = lambda _c, _u, flags, code, props: put(
            "disconnected", code.value if flags.is_disconnect_packet_from_server else None, text(props)
        )
        client.on_log = lambda _c, _u, level, line: put("pinged") if line == "Received PINGRESP" else None
        client.connect("localhost", port, KEEP_ALIVE_S)
        client.loop_start()
        _, self.connack_code, properties = self.wait("connected")
        self.connack = properties.json() if properties else {}

    def wait(self, *kinds):
        """Returns the next event of these kinds, passing over others."""
        while True:
            event = self.events.get(timeout=PATIENCE_S)
            if event[0] in kinds:
                return event

    def publish(self, payload, to=topic, qos=1, **options):
        return self.client.publish(to, payload, qos=qos, **options).mid

    def outcome(self, *args, **options):
        """Publishes, and says whether that was acknowledged or ended the connection, and with which words."""
        self.publish(*args, **options)
        event = self.wait("published", "disconnected")
        return [event[0], *event[-2:]]

    def subscribe(self, filter):
        self.client.subscribe(filter)
        return list(self.wait("subscribed")[1:])


told = {}
device = Device("main")
told["connack"] = [device.connack_code, device.connack]

told["sent"] = [device.publish(json.dumps({"n": n})) for n in range(MESSAGES)]
told["acknowledged"] = [device.wait("published")[1] for _ in range(MESSAGES)]
device.publish('{"at_most_once": 1}', qos=0)
device.wait("published")

told["own"] = device.subscribe(f"devices/{sensor_id}/#")
told["foreign"] = device.subscribe("devices/another-1/#")
device.wait("pinged")

told["malformed"] = device.outcome("this is not JSON")
if version == 5:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = ("event-id", "e-1")
    told["named"] = device.outcome('{"named": 1}', properties=properties)
told["foreign topic"] = device.outcome("{}", to="devices/another-1/readings")
told["qos 2"] = Device("qos-2").outcome("{}", qos=2)
told["retained"] = Device("retained").outcome('{"retained": 1}', retain=True)

first = Device("same")
second = Device("same")
told["taken over"] = list(first.wait("disconnected")[1:])
told["successor"] = second.outcome('{"successor": 1}')
print(json.dumps(told))
