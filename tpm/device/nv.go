package device

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

const (
	// The EK certificate's issuers, in as many indices as they need (EK Credential Profile, "Reserved NV Index
	// Handles").
	chainFirst = 0x01c00100
	chainLast  = 0x01c001ff

	maxCertificate  = 16 << 10
	defaultNVBuffer = 512 // the least that a PC Client TPM must offer
	maxNVBuffer     = 2048
)

// nvBufferSize asks how much one NV read can return.
func (c *conn) nvBufferSize() (int, error) {
	list, err := c.capability(tpm2.TPMCapTPMProperties, uint32(tpm2.TPMPTNVBufferMax), 1)
	if err != nil {
		return 0, err
	}
	properties, err := list.Data.TPMProperties()
	if err != nil {
		return 0, err
	}
	for _, p := range properties.TPMProperty {
		if p.Property == tpm2.TPMPTNVBufferMax && p.Value > 0 {
			return int(min(p.Value, maxNVBuffer)), nil
		}
	}
	return defaultNVBuffer, nil
}

func (c *conn) capability(kind tpm2.TPMCap, property, count uint32) (tpm2.TPMSCapabilityData, error) {
	rsp, err := tpm2.GetCapability{Capability: kind, Property: property, PropertyCount: count}.Execute(c)
	if err != nil {
		return tpm2.TPMSCapabilityData{}, fmt.Errorf("read the TPM's capabilities: %w", err)
	}
	return rsp.CapabilityData, nil
}

// handles lists the handles in use from first to last.
func (c *conn) handles(first, last uint32) ([]tpm2.TPMHandle, error) {
	const page = 64
	var all []tpm2.TPMHandle
	for next := first; next <= last; {
		answer, err := c.capability(tpm2.TPMCapHandles, next, page)
		if err != nil {
			return nil, err
		}
		list, err := answer.Data.Handles()
		if err != nil {
			return nil, err
		}
		for _, h := range list.Handle {
			if uint32(h) < next || uint32(h) > last {
				return all, nil
			}
			all = append(all, h)
			next = uint32(h) + 1
		}
		if len(list.Handle) == 0 {
			return all, nil
		}
	}
	return all, nil
}

// errNoCertificate says that an index is there and holds something else.
var errNoCertificate = errors.New("no certificate")

// unreadable reports whether readNV failed because of the index, and not because of the TPM or the connection.
func unreadable(err error) bool {
	var rc tpm2.TPMRC
	return errors.Is(err, errNoCertificate) || errors.As(err, &rc) && !errors.Is(err, ErrBusy)
}

// readNV returns the whole content of an index that anybody, or the owner with this password, may read.
func (c *conn) readNV(index tpm2.TPMHandle, ownerPassword []byte, buffer int) ([]byte, error) {
	pub, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("NV index 0x%08x: %w", uint32(index), err)
	}
	area, err := pub.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("NV index 0x%08x: %w", uint32(index), err)
	}
	if area.DataSize > maxCertificate {
		return nil, fmt.Errorf("NV index 0x%08x: %w: it has %d bytes", uint32(index), errNoCertificate, area.DataSize)
	}
	auth := tpm2.AuthHandle{Handle: index, Name: pub.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !area.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: passwordSession(ownerPassword)}
	}
	content := make([]byte, 0, area.DataSize)
	for len(content) < int(area.DataSize) {
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: pub.NVName},
			Size:       uint16(min(int(area.DataSize)-len(content), buffer)),
			Offset:     uint16(len(content)),
		}.Execute(c)
		if err != nil {
			return nil, fmt.Errorf("read NV index 0x%08x: %w", uint32(index), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("read NV index 0x%08x: %w: the TPM returns nothing", uint32(index), errNoCertificate)
		}
		content = append(content, rsp.Data.Buffer...)
	}
	return content, nil
}

// passwordSession authorises with a password. One that is not empty does not travel in the clear.
func passwordSession(password []byte) tpm2.Session {
	if len(password) == 0 {
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(password))
}

// readChain returns the issuers' certificates. They may share and span indices; an index that cannot be read
// ends the certificate that reaches into it.
func (c *conn) readChain(ownerPassword []byte, buffer int) ([][]byte, error) {
	indices, err := c.handles(chainFirst, chainLast)
	if err != nil {
		return nil, err
	}
	var chain [][]byte
	var run []byte
	for _, index := range indices {
		content, err := c.readNV(index, ownerPassword, buffer)
		if err != nil && !unreadable(err) {
			return nil, err
		}
		if err != nil {
			chain = append(chain, splitDER(run)...)
			run = nil
			continue
		}
		run = append(run, content...)
	}
	return append(chain, splitDER(run)...), nil
}

// splitDER splits concatenated certificates by the length that each begins with. Padding and a certificate that
// is cut short end the list.
func splitDER(b []byte) [][]byte {
	var list [][]byte
	for {
		n := derLength(b)
		if n == 0 || n > len(b) {
			return list
		}
		list = append(list, b[:n:n])
		b = b[n:]
	}
}

// trimPadding removes what an NV index holds after the certificate. Content that is no DER stays as it is.
func trimPadding(b []byte) []byte {
	if n := derLength(b); n != 0 && n <= len(b) {
		return b[:n]
	}
	return b
}

// derLength is the length, header included, of the SEQUENCE that b begins with; 0 when it begins with none.
func derLength(b []byte) int {
	const sequence = 0x30
	if len(b) < 2 || b[0] != sequence {
		return 0
	}
	switch n := int(b[1]); {
	case n < 0x80:
		return 2 + n
	case n == 0x81 && len(b) >= 3:
		return 3 + int(b[2])
	case n == 0x82 && len(b) >= 4:
		return 4 + int(b[2])<<8 + int(b[3])
	}
	return 0 // longer than any NV index
}

// certifies reports whether the certificate holds the key's bytes: which of the TPM's certificates is which
// key's. Whether the certificate is any good is for the tenant to decide, and some that are cannot be parsed
// strictly.
func certifies(cert []byte, key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return bytes.Contains(cert, k.N.Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		return err == nil && bytes.Contains(cert, point)
	}
	return false
}
