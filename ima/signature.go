package ima

import (
	"encoding/binary"
	"fmt"
)

// signatureHeader is struct signature_v2_hdr of security/integrity/integrity.h: type, version, hash algorithm, key id
// and the size of what follows.
const signatureHeader = 9

// CheckSignature holds that the content of a security.ima attribute is framed as a signature: its header's size is that
// of what follows. It verifies nothing.
func CheckSignature(b []byte) error {
	if len(b) < signatureHeader {
		return fmt.Errorf("signature of %d bytes is shorter than its header", len(b))
	}
	if size, rest := int(binary.BigEndian.Uint16(b[7:])), len(b)-signatureHeader; size != rest {
		return fmt.Errorf("signature's header says %d bytes, %d follow", size, rest)
	}
	return nil
}
