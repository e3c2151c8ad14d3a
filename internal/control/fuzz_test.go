package control_test

import (
	"path/filepath"
	"testing"

	"taskrole/internal/container"
	"taskrole/internal/control"
	"taskrole/internal/fault"
)

// Whatever arrives: it is refused as request-invalid, or it is a request whose every part is within its bounds.
func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{
		goodAttach, `{"version":2,"list":{"after":"abc"}}`, `{"version":9}`, `{"version":2,"roles":{"after":"a"}}`, `{"version":2,"refusals":{}}`,
		`{"version":2,"check":{"role":"a"}}`, `{"version":2,"credentials":{"role":"a","use":"env"}}`, `{"version":2,"attach":null,"list":{}}`,
		`{"version":2,"version":2}`, `[]`, `null`, ``, "{\"version\":1,\"attach\":{\"role\":\"\xff\"}}", `{"Version":1,"LIST":{}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fds, attach, err := control.DecodeRequest(b)
		if err != nil {
			if fault.CodeOf(err) != fault.RequestInvalid {
				t.Errorf("DecodeRequest(%q) = %v, want request-invalid", b, err)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("DecodeRequest: sentence of %d bytes", len(err.Error()))
			}
			return
		}
		if attach == nil {
			if fds != 0 {
				t.Errorf("a request without a container with %d descriptors", fds)
			}
			return
		}
		if fds != 2 || attach.Role == "" || !attach.ID.Valid() || attach.Bundle != "" && !filepath.IsAbs(attach.Bundle) ||
			attach.Way != container.WayCDI && attach.Way != container.WayShim {
			t.Errorf("DecodeRequest(%q) let %+v through", b, attach)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	for _, s := range []string{
		`{"version":2,"attach":{"container":"a","role":"r"}}`, `{"version":9,"fault":{"code":"internal","what":"x"}}`,
		`{"fault":{}}`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := control.DecodeReply(b); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
