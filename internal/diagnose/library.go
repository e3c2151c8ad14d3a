package diagnose

import (
	"strconv"
	"strings"
)

// Library is an SDK that was found in the process's files or in its program, without running anything.
type Library struct {
	SDK     SDK    `json:"sdk"`
	Version string `json:"version,omitempty"` // as its own files say; "" where they do not
	Path    string `json:"path"`              // the evidence, in the process's root
}

// LibraryOf is the library of s that was found first, which is the one nearest to the program.
func (f *Facts) LibraryOf(s SDK) (Library, bool) {
	for _, l := range f.Libraries {
		if l.SDK == s {
			return l, true
		}
	}
	return Library{}, false
}

// tokensSince are the first versions that speak version 2 of IMDS, as the EC2 User Guide lists them ("Use a supported AWS
// SDK"). SDKs that are not here have always spoken it, or do not tell their version.
var tokensSince = map[SDK]string{
	Botocore: "1.13.25", GoV1: "1.25.38", GoV2: "0.19.0", JavaV1: "1.11.678", JavaV2: "2.10.21", JSv2: "2.722.0", PHP: "3.147.7",
	Ruby: "3.79.0", Cpp: "1.7.229", DotNet: "3.3.634.1",
}

// beforeTokens says that the SDK was found in a version that speaks only version 1 of IMDS.
func (f *Facts) beforeTokens(s SDK) bool {
	return f.before(s, tokensSince[s])
}

// before says that the SDK was found in a version before this one.
func (f *Facts) before(s SDK, version string) bool {
	l, ok := f.LibraryOf(s)
	return ok && l.Version != "" && version != "" && older(l.Version, version)
}

// podIdentity is the first botocore that knows EKS Pod Identity's address, and token files.
const podIdentity = "1.34.41"

// oldHosts are the hosts of a full URI that SDKs allowed before they knew EKS Pod Identity.
var oldHosts = map[SDK]struct {
	since string
	names []string
}{
	Botocore: {podIdentity, []string{"localhost", "127.0.0.1", "169.254.170.2"}},
	JavaV1:   {"1.12.746", []string{"localhost", "127.0.0.1"}},
}

// older compares versions by their leading numbers. What is no number ends the comparison, and counts as not older:
// nobody is accused because of a version that cannot be read.
func older(version, than string) bool {
	have, want := strings.Split(strings.TrimPrefix(version, "v"), "."), strings.Split(than, ".")
	for i := range want {
		if i >= len(have) {
			return true // 1.13 comes before 1.13.25
		}
		h, err := strconv.Atoi(have[i])
		w, _ := strconv.Atoi(want[i]) // of the table above
		if err != nil || h > w {
			return false
		}
		if h < w {
			return true
		}
	}
	return false
}
