package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Control is the control endpoint. It has no authentication: serve it where only the experimenter gets.
//
//	GET    /faults               what is going wrong
//	PUT    /faults               a Fault: {"service": "sts", "kind": "throttle", "count": 3}
//	DELETE /faults[?service=s3]  all is well again
//	GET    /imds                 {"hop_limit": 1, "tokens_required": false, "enabled": true}
//	PUT    /imds                 the same, members may be left out
//	POST   /expire               {"access_key": "ASIA…"}, or nothing for all sessions; answers {"expired": 2}
//	PUT    /sessions             {"life": "5s"}: sessions end after that at the latest; "0s" takes the limit away
//	GET    /calls                the audit trail
//	DELETE /calls                empties it
//
// Errors are 400 with {"error": "…"}.
func (c *Cloud) Control() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(w http.ResponseWriter, r *http.Request) (any, error){
		"GET /faults":    func(http.ResponseWriter, *http.Request) (any, error) { return c.Faults(), nil },
		"PUT /faults":    c.putFault,
		"DELETE /faults": c.deleteFaults,
		"GET /imds":      func(http.ResponseWriter, *http.Request) (any, error) { return c.settings(), nil },
		"PUT /imds":      c.putIMDS,
		"POST /expire":   c.postExpire,
		"PUT /sessions":  c.putSessions,
		"GET /calls":     func(http.ResponseWriter, *http.Request) (any, error) { return c.Calls(), nil },
		"DELETE /calls":  c.deleteCalls,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			status := http.StatusOK
			answer, err := h(w, r)
			if err != nil {
				status, answer = http.StatusBadRequest, map[string]string{"error": err.Error()}
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(answer) // a client that has gone away needs nothing
		})
	}
	return mux
}

func (c *Cloud) putFault(w http.ResponseWriter, r *http.Request) (any, error) {
	var f Fault
	if err := decodeStrict(w, r, &f); err != nil {
		return nil, fmt.Errorf("read fault: %w", err)
	}
	if err := c.SetFault(f); err != nil {
		return nil, err
	}
	return c.Faults(), nil
}

func (c *Cloud) deleteFaults(_ http.ResponseWriter, r *http.Request) (any, error) {
	c.ClearFaults(r.URL.Query().Get("service"))
	return c.Faults(), nil
}

// imdsSettings are pointers so that a member that is left out changes nothing.
type imdsSettings struct {
	HopLimit       *int  `json:"hop_limit,omitempty"`
	TokensRequired *bool `json:"tokens_required,omitempty"`
	Enabled        *bool `json:"enabled,omitempty"`
}

func (c *Cloud) settings() imdsSettings {
	hops, required, enabled := c.imds.HopLimit(), c.imds.TokensRequired(), c.imds.Enabled()
	return imdsSettings{HopLimit: &hops, TokensRequired: &required, Enabled: &enabled}
}

func (c *Cloud) putIMDS(w http.ResponseWriter, r *http.Request) (any, error) {
	var s imdsSettings
	if err := decodeStrict(w, r, &s); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	if s.HopLimit != nil {
		if err := c.SetHopLimit(*s.HopLimit); err != nil {
			return nil, err
		}
	}
	if s.TokensRequired != nil {
		c.SetTokensRequired(*s.TokensRequired)
	}
	if s.Enabled != nil {
		c.SetMetadataEnabled(*s.Enabled)
	}
	return c.settings(), nil
}

func (c *Cloud) postExpire(w http.ResponseWriter, r *http.Request) (any, error) {
	var which struct {
		AccessKey string `json:"access_key"`
	}
	if err := decodeStrict(w, r, &which); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read access key: %w", err)
	}
	n := 0
	switch {
	case which.AccessKey == "":
		n = c.ExpireAll()
	case c.Expire(which.AccessKey):
		n = 1
	}
	return map[string]int{"expired": n}, nil
}

func (c *Cloud) putSessions(w http.ResponseWriter, r *http.Request) (any, error) {
	var s struct {
		Life Duration `json:"life"`
	}
	if err := decodeStrict(w, r, &s); err != nil {
		return nil, fmt.Errorf("read life: %w", err)
	}
	if s.Life < 0 {
		return nil, fmt.Errorf("life %v; allowed: 0s (no limit) or more", time.Duration(s.Life))
	}
	c.LimitSessions(time.Duration(s.Life))
	return s, nil
}

func (c *Cloud) deleteCalls(http.ResponseWriter, *http.Request) (any, error) {
	c.ResetCalls()
	return c.Calls(), nil
}
