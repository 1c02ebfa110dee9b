package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"keylime/internal/strictjson"
	"keylime/tpm"
	"keylime/tpm/device"
)

// agentData is the file that keeps the AK between runs, in the format that Keylime's agents share: an installation
// that changes from one to the other keeps its registration.
type agentData struct {
	HashAlg string   `json:"ak_hash_alg"` // Sha1, Sha256, Sha384, Sha512
	SignAlg string   `json:"ak_sign_alg"` // RsaSsa, RsaPss, EcDsa
	Public  byteList `json:"ak_public"`   // TPMT_PUBLIC
	Private byteList `json:"ak_private"`  // the buffer of TPM2B_PRIVATE
	EKHash  byteList `json:"ek_hash"`     // ASCII of the EK's hash (see ekHash)
}

// The file's names of algorithms.
var (
	dataHashAlgs = map[tpm.Hash]string{tpm.SHA1: "Sha1", tpm.SHA256: "Sha256", tpm.SHA384: "Sha384", tpm.SHA512: "Sha512"}
	dataSignAlgs = map[string]string{"rsassa": "RsaSsa", "rsapss": "RsaPss", "ecdsa": "EcDsa"}
)

// byteList is bytes as a JSON array of numbers.
type byteList []byte

// MarshalJSON writes [1,2,3].
func (b byteList) MarshalJSON() ([]byte, error) {
	numbers := make([]uint16, len(b))
	for i, v := range b {
		numbers[i] = uint16(v)
	}
	return json.Marshal(numbers)
}

// UnmarshalJSON reads [1,2,3]; each number is 0 to 255.
func (b *byteList) UnmarshalJSON(text []byte) error {
	var numbers []uint16
	if err := json.Unmarshal(text, &numbers); err != nil {
		return err
	}
	*b = make(byteList, len(numbers))
	for i, n := range numbers {
		if n > 255 {
			return fmt.Errorf("%d is no byte", n)
		}
		(*b)[i] = byte(n)
	}
	return nil
}

// akIdentity is what a kept AK must have been made for to be used again.
type akIdentity struct {
	hash   tpm.Hash
	scheme string
	ekHash string
}

// errOtherAK says that the file's AK was made for other algorithms or another TPM.
var errOtherAK = errors.New("the kept attestation key is for another TPM or other algorithms")

// loadAgentData reads the kept AK. errOtherAK and fs.ErrNotExist are ordinary; any other error says that the file is
// damaged.
func loadAgentData(file string, want akIdentity) (device.AKBlob, error) {
	text, err := readBounded(file, maxAgentData)
	if err != nil {
		return device.AKBlob{}, err
	}
	if err := strictjson.Check(text, 4); err != nil {
		return device.AKBlob{}, fmt.Errorf("agent data %s: %w", file, err)
	}
	var data agentData
	if err := json.Unmarshal(text, &data); err != nil {
		return device.AKBlob{}, fmt.Errorf("agent data %s: %w", file, err)
	}
	if data.HashAlg != dataHashAlgs[want.hash] || data.SignAlg != dataSignAlgs[want.scheme] || string(data.EKHash) != want.ekHash {
		return device.AKBlob{}, errOtherAK
	}
	blob := device.AKBlob{Public: tpm2b(data.Public), Private: tpm2b(data.Private)}
	if _, err := tpm.ParsePublic(blob.Public); err != nil {
		return device.AKBlob{}, fmt.Errorf("agent data %s: public area: %w", file, err)
	}
	return blob, nil
}

// saveAgentData keeps the AK for the next start.
func saveAgentData(file string, id akIdentity, blob device.AKBlob) error {
	data := agentData{HashAlg: dataHashAlgs[id.hash], SignAlg: dataSignAlgs[id.scheme], EKHash: byteList(id.ekHash)}
	var err error
	if data.Public, err = un2b(blob.Public); err != nil {
		return fmt.Errorf("keep the AK: public area: %w", err)
	}
	if data.Private, err = un2b(blob.Private); err != nil {
		return fmt.Errorf("keep the AK: private area: %w", err)
	}
	text, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("keep the AK: %w", err)
	}
	return writePrivate(file, text)
}

// tpm2b puts the BE16 size of a TPM2B structure before its buffer.
func tpm2b(buffer []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(buffer))), buffer...)
}

func un2b(structure []byte) (byteList, error) {
	if len(structure) < 2 || int(binary.BigEndian.Uint16(structure)) != len(structure)-2 {
		return nil, errors.New("size prefix does not match")
	}
	return byteList(structure[2:]), nil
}
