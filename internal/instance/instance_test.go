package instance_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"taskrole/internal/instance"
)

func TestOrTakesThePlaceAsAWhole(t *testing.T) {
	host := instance.Facts{ID: "i-1", Region: "eu-west-1", Tags: map[string]string{}}
	config := instance.Facts{ID: "i-2", Type: "t3.micro", Region: "us-east-1", Zone: "us-east-1a", ZoneID: "use1-az1", Tags: map[string]string{"a": "b"}}
	want := instance.Facts{ID: "i-1", Type: "t3.micro", Region: "eu-west-1", Tags: map[string]string{"a": "b"}}
	if d := cmp.Diff(want, host.Or(config)); d != "" {
		t.Errorf("Or (-want +got):\n%s", d)
	}
	if d := cmp.Diff(config, instance.Facts{}.Or(config)); d != "" {
		t.Errorf("nothing or config (-want +got):\n%s", d)
	}
}

func TestZoneIsToldOnlyInItsRegion(t *testing.T) {
	zone := instance.Facts{Region: "eu-west-1", Zone: "eu-west-1a", ZoneID: "euw1-az1"}
	for region, want := range map[string]instance.Facts{
		"":          zone,
		"eu-west-1": zone,
		"us-east-1": {Region: "us-east-1"},
	} {
		if d := cmp.Diff(want, zone.In(region)); d != "" {
			t.Errorf("in %q (-want +got):\n%s", region, d)
		}
	}
	local := instance.Facts{Region: "us-west-2", Zone: "us-west-2-lax-1a", ZoneID: "usw2-lax1-az1"}
	if d := cmp.Diff(instance.Facts{Region: "us-west-2"}, local.In("")); d != "" {
		t.Errorf("in a local zone (-want +got):\n%s", d)
	}
	if got := (instance.Facts{Zone: "eu-west-1a"}).In(""); got.Region != "eu-west-1" {
		t.Errorf("the region of a zone alone: %q", got.Region)
	}
	if d := cmp.Diff(instance.Facts{}, instance.Facts{}.In("")); d != "" {
		t.Errorf("nothing known:\n%s", d)
	}
}
