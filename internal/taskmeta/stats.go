package taskmeta

import (
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// sample is one of the engine's, with the one before it put where the engine itself puts it: collectors work out the
// use of processors from the two. The members are passed on as they are.
type sample struct {
	members map[string]json.RawMessage
	read    time.Time
	rx, tx  uint64 // bytes over all networks
	rates   *rates // since the sample before; nil: there was none
}

// rates is what version 4 has besides.
type rates struct {
	Rx float64 `json:"rx_bytes_per_sec"`
	Tx float64 `json:"tx_bytes_per_sec"`
}

func newSample(b []byte, before sample) (sample, error) {
	var s sample
	if err := json.Unmarshal(b, &s.members); err != nil {
		return sample{}, fmt.Errorf("read the engine's sample: %w", err)
	}
	var known struct {
		Read     time.Time `json:"read"`
		Networks map[string]struct {
			Rx uint64 `json:"rx_bytes"`
			Tx uint64 `json:"tx_bytes"`
		} `json:"networks"`
	}
	if err := json.Unmarshal(b, &known); err != nil {
		return sample{}, fmt.Errorf("read the engine's sample: %w", err)
	}
	s.read = known.Read
	for _, n := range known.Networks {
		s.rx += n.Rx
		s.tx += n.Tx
	}
	past := s.read.Sub(before.read).Seconds()
	if before.members == nil || past <= 0 {
		return s, nil
	}
	for to, from := range map[string]string{"precpu_stats": "cpu_stats", "preread": "read"} {
		if v, ok := before.members[from]; ok {
			s.members[to] = v
		}
	}
	if s.rx >= before.rx && s.tx >= before.tx { // else a network has gone
		s.rates = &rates{Rx: float64(s.rx-before.rx) / past, Tx: float64(s.tx-before.tx) / past}
	}
	return s, nil
}

// document is the sample as a version has it.
func (s sample) document(version int) map[string]any {
	const withRates = 4
	d := make(map[string]any, len(s.members)+1)
	for k, v := range maps.All(s.members) {
		d[k] = v
	}
	if version >= withRates && s.rates != nil {
		d["network_rate_stats"] = s.rates
	}
	return d
}
