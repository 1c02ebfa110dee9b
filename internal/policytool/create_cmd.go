package policytool

import (
	"context"
	"io"
	"strings"
)

const aboutRuntime = `Makes a runtime policy: the digests that measured files may have. What is read adds up: an older policy, allow lists,
what a machine's kernel has measured, root file systems, RAM disks, packages, container images. Files are hashed with the algorithm
of the other inputs, SHA-256 without any; it must be the one that the attested machines' kernel measures with (ima_hash=).
RPM packages state their files' digests themselves.`

func runtimeCommand() command {
	return command{
		path:  "create runtime",
		brief: "make a runtime policy from files, lists and measurements",
		about: aboutRuntime,
		examples: []string{
			"keylime policy create runtime --rootfs / --ramdisk-dir /boot -o policy.json",
			"keylime policy create runtime -m -k -b -e exclude.txt -o policy.json",
			"keylime policy create runtime --remote-deb-repo https://mirror.example/debian --deb-suite bookworm --deb-component main \\\n      --repo-keyring /usr/share/keyrings/debian-archive-keyring.gpg --merged-usr -o policy.json",
			"keylime policy create runtime -p policy.json --rootfs /mnt/image -s /mnt/image/opt -o policy.json",
		},
		prepare: func(stdout io.Writer, screen *screen) call {
			r := &runtimeRequest{sources: sourceSettings{workers: defaultWorkers}}
			return call{options: runtimeOptions(r), run: func(ctx context.Context) error {
				return createRuntime(ctx, r, stdout, screen)
			}}
		},
	}
}

func runtimeOptions(r *runtimeRequest) []option {
	options := []option{
		{"output", "o", "FILE", "", "write to `FILE`, not to standard output", text(&r.output)},
		{"base-policy", "p", "FILE", "", "begin with the runtime policy in `FILE`", text(&r.basePolicy)},
		{"keyrings", "k", "", "", "take the keys in the measurement list", on(&r.take.keyrings)},
		{"ima-buf", "b", "", "", "take the critical data in the measurement list, such as SELinux's state", on(&r.take.buffers)},
		{"allowlist", "a", "FILE", "", "take the digests in `FILE`, lines as sha256sum prints them", text(&r.allowList)},
		{"excludelist", "e", "FILE", "", "exclude the paths that the regular expressions in `FILE` match, one a line", text(&r.excludeList)},
		{"ima-measurement-list", "m", "FILE", kernelList, "take the digests in the measurement list in `FILE`, or, without FILE, in this machine's", text(&r.measurements)},
		{"ignored-keyrings", "", "NAME", "", "accept any key in the keyring `NAME`; repeatable", list(&r.ignoredKeyrings)},
		{"add-ima-signature-verification-key", "", "FILE", "", "accept files signed with the key in `FILE`: a certificate or a key, PEM or DER; repeatable", list(&r.verificationKeys)},
		{"show-legacy-allowlist", "", "", "", "write the digests alone, as a flat allow list", on(&r.legacy)},
		{"algo", "", "NAME", "", "hash with the algorithm `NAME`: sha1, sha256, sha384, sha512 or sm3_256", setAlgorithm(&r.algorithm)},
		{"skip-path", "s", "DIRS", "", "leave out `DIRS`, separated by commas, of root file systems", func(v string) error {
			r.sources.skip = append(r.sources.skip, strings.Split(v, ",")...)
			return nil
		}},
		{"max-workers", "", "N", "", "read `N` packages at a time (8)", r.sources.setWorkers},
		{"verbose", "v", "", "", "say more", on(&r.verbose)},
	}
	for _, kind := range sourceKinds() {
		options = append(options, option{kind.flag, "", kind.value, "", kind.help, func(v string) error {
			r.sources.named = append(r.sources.named, namedSource{kind, v})
			return nil
		}})
	}
	return append(options, packageOptions(&r.sources.packages)...)
}
