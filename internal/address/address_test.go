package address_test

import (
	"testing"

	"taskrole/internal/address"
)

func TestCredentialsPath(t *testing.T) {
	if p := address.CredentialsPath("app"); p != "/v2/credentials/app" || !address.IsCredentialsPath(p) {
		t.Errorf("CredentialsPath(app) = %q, recognised: %v", p, address.IsCredentialsPath(p))
	}
	for _, p := range []string{"", "/", "/v2/credentials", "/v2/credentials/", "/v3/credentials/app"} {
		if address.IsCredentialsPath(p) {
			t.Errorf("IsCredentialsPath(%q) = true", p)
		}
	}
}
