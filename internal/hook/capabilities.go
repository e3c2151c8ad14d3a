package hook

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// maxConfig bounds config.json: engines write some 10 kB.
const maxConfig = 8 << 20

// confined says whether the bundle gives its process neither CAP_NET_RAW nor CAP_NET_ADMIN, in any set. It is no where
// that cannot be seen: the agent then keeps other roles out of the container's network namespace. The process itself
// cannot be asked yet, since it still has what the runtime has.
func confined(bundle string) bool {
	if bundle == "" {
		return false
	}
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	return err == nil && len(b) <= maxConfig && withoutListening(b)
}

// withoutListening reads the capabilities in config.json (config.md of the OCI runtime specification, "Linux Process").
func withoutListening(configJSON []byte) bool {
	var config struct {
		Process struct {
			Capabilities map[string][]string `json:"capabilities"`
		} `json:"process"`
	}
	if json.Unmarshal(configJSON, &config) != nil {
		return false
	}
	if _, known := config.Process.Capabilities["bounding"]; !known {
		return false
	}
	for _, set := range config.Process.Capabilities {
		for _, c := range set {
			switch strings.TrimPrefix(strings.ToUpper(c), "CAP_") {
			case "NET_RAW", "NET_ADMIN", "ALL":
				return false
			}
		}
	}
	return true
}
