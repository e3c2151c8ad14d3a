// Package instance holds what is known of the machine: what the instance metadata service would say of it.
//
// It is a package of its own because three others must mean the same by it: the configuration, the door to the host's
// metadata service, and the endpoint that tells containers. It has no field for anything secret, so that none can be
// passed on: no user data, no credentials, no signatures.
package instance

// Facts describe an instance. What is not known is empty.
type Facts struct {
	ID           string // i-…
	Type         string // t3.micro
	ImageID      string // ami-…
	Architecture string // x86_64, arm64
	Region       string
	Zone         string // availability zone; SDKs take the region from it by cutting the last letter off
	ZoneID       string // euw1-az1
	LocalIPv4    string
	Hostname     string
	MAC          string
	PendingTime  string // when it was started, RFC 3339
	Tags         map[string]string
}

// Or is f with what is not known taken from g. Where the instance is comes from one of them, as a whole: a zone of the
// one in a region of the other would be nowhere.
func (f Facts) Or(g Facts) Facts {
	for _, p := range []struct{ mine, other *string }{
		{&f.ID, &g.ID},
		{&f.Type, &g.Type},
		{&f.ImageID, &g.ImageID},
		{&f.Architecture, &g.Architecture},
		{&f.LocalIPv4, &g.LocalIPv4},
		{&f.Hostname, &g.Hostname},
		{&f.MAC, &g.MAC},
		{&f.PendingTime, &g.PendingTime},
	} {
		if *p.mine == "" {
			*p.mine = *p.other
		}
	}
	if f.Region == "" && f.Zone == "" && f.ZoneID == "" {
		f.Region, f.Zone, f.ZoneID = g.Region, g.Zone, g.ZoneID
	}
	if len(f.Tags) == 0 {
		f.Tags = g.Tags
	}
	return f
}

// In is f as seen from a region: with the region of the zone where none is given, and with the zone only if SDKs take
// this region from it. The names of local zones, for instance, lead them astray.
func (f Facts) In(region string) Facts {
	if region == "" {
		region = f.Region
	}
	ofZone := ""
	if f.Zone != "" {
		ofZone = f.Zone[:len(f.Zone)-1]
	}
	if region == "" {
		region = ofZone
	}
	if ofZone != region {
		f.Zone, f.ZoneID = "", ""
	}
	f.Region = region
	return f
}
