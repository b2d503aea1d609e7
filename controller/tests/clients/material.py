"""Certificates of one authority, stored in Krater's key manager as a client of it would."""

import datetime
import json
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM).decode()


class Material:
    """References: certificates with keys `server` and `other`, the authority's certificate `ca`, its list `crl`."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = name("authority")
        authority = x509.BasicConstraints(ca=True, path_length=None)
        self.ca = self.store(pem(self.certificate(self.subject, self.key, authority)))
        self.server = self.store(self.bundle("server.example"))
        self.other = self.store(self.bundle("other.example"))
        now = datetime.datetime.now(datetime.timezone.utc)
        revoked = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(now - DAY)
            .next_update(now + 30 * DAY)
            .add_extension(x509.CRLNumber(1), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        self.crl = self.store(pem(revoked))

    def certificate(self, subject, key, constraints):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 365 * DAY)
            .add_extension(constraints, critical=True)
        )
        if not constraints.ca:
            text = subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(text)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def bundle(self, host):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(name(host), key, x509.BasicConstraints(ca=False, path_length=None))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return pem(certificate) + private.decode()

    def store(self, payload):
        body = json.dumps({"payload": payload, "payload_content_type": "text/plain"}).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.endpoint}/v1/secrets", body, headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["secret_ref"]
