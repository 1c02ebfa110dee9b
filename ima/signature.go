package ima

import (
	"crypto"
	_ "crypto/md5" // makes crypto.MD5 available
	_ "crypto/sha1"
	_ "crypto/sha256"
	_ "crypto/sha512"
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

// The types of a signed attribute (enum evm_ima_xattr_type), and the only version whose signatures are over the file's
// digest itself.
const (
	typeDigsig         = 3 // EVM_IMA_XATTR_DIGSIG
	typePortableDigsig = 5 // EVM_XATTR_PORTABLE_DIGSIG, of a file's metadata; it verifies as a file's only by chance
	signatureVersion   = 2
)

// signatureHashes are the usable algorithms of a signature: the kernel's number (enum hash_algo), its name in a
// measurement, and ours.
var signatureHashes = []struct {
	number byte
	name   string
	hash   crypto.Hash
}{
	{4, "sha256", crypto.SHA256},
	{6, "sha512", crypto.SHA512},
	{5, "sha384", crypto.SHA384},
	{2, "sha1", crypto.SHA1},
	{7, "sha224", crypto.SHA224},
	{1, "md5", crypto.MD5},
}

// signed is what a file's signature says of itself.
type signed struct {
	hash  crypto.Hash
	keyID uint32
	bytes []byte
}

// readSignature reads the attribute of an entry. It is not ok unless the signature could be one of the entry's digest.
// Signatures of fs-verity digests (version 3) are of a structure around the digest, and not read.
func readSignature(e *Entry) (s signed, ok bool) {
	b := e.Signature
	if e.Verity || CheckSignature(b) != nil || b[0] != typeDigsig && b[0] != typePortableDigsig || b[1] != signatureVersion {
		return s, false
	}
	for _, h := range signatureHashes {
		if h.number == b[2] {
			return signed{h.hash, binary.BigEndian.Uint32(b[3:]), b[signatureHeader:]},
				h.name == string(e.Alg) && len(e.Digest) == h.hash.Size()
		}
	}
	return s, false
}
