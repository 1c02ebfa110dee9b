package registrar

import "time"

// What one client may cost the registrar. Registration is open to the network, so it must stay cheap for us and of
// little use as a weapon against others; but a whole data centre may come up at once behind one address.
const (
	// A registration costs a public-key operation and a commit. Each address has 200 a second, and 5,000 at once.
	registerEvery = time.Second / 200
	registerBurst = 5_000
	// An agent that starts registers once. Registering the same id over and over only displaces its challenge, so each
	// address has one in two seconds, and 60 at once.
	registerIDEvery = 2 * time.Second
	registerIDBurst = 60
	// A wrong tag is a mistake or an attack. Beyond these it is refused without displacing anything.
	wrongTagEvery = 10 * time.Second
	wrongTagBurst = 10

	limiterKeys = 65_536

	maxRequest = 512 << 10 // bytes of a registration: store.MaxRegistration in base64, and its names
	maxTag     = 1 << 10   // bytes of an activation

	expireEvery = 30 * time.Second
	expireBatch = 1_000
	listBatch   = 10_000
)
