package archtest

// floor is one storey of the house. A package imports from its own storey or from below, and only what its row says.
type floor struct {
	name string
	rows []row
}

// row says which packages of this module a package may import. Tests may import more.
type row struct {
	pkg string
	may string // separated by blanks, without "internal/"
}

// house is the import table, from the top down: every package of the module has one row.
var house = []floor{
	{"programs", []row{
		{"cmd/taskrole", "agent cli daemon doctor fault"},
		{"cmd/taskrole-agent", "agent daemon"},
		{"cmd/taskrole-runtime", "hook shim"},
		{"cmd/taskrole-lab", "lab/cli"},
	}},
	{"4 modes: the only packages that put the others together", []row{
		{"cli", "address companion config container control daemon doc engine/docker envfile fault hostrole instancerole launch manual setup table terminal"},
		{"agent", "address attach attest awssts broker cdispec cgroups config container control durable egress endpoint engine/docker engine/podman fault grant guard " +
			"hostimds instance netns nft policy secret systemd taskmeta"},
		{"daemon", "config fault"},
		{"doctor", "address audit config container control diagnose engine/docker engine/monitors facts fault launch policy secret table"},
		{"hook", "container control fault"},
		{"hostrole", "arn awssts broker companion config container control endpoint fault grant secret"},
		{"launch", "cdispec companion config control fault"},
		{"setup", "cdispec config durable fault jsontext"},
		{"shim", "cdispec container durable fault ociedit"},
	}},
	{"3 machinery: declares the interfaces it needs", []row{
		{"attach", "attest container fault netns readiness skl"},
		{"broker", "fault grant secret"},
		{"endpoint", "address arn container fault instance secret"},
		{"egress", "fault"},
		{"guard", "cgroups fault nft"},
		{"control", "container fault secret"},
		{"companion", "attest fault readiness"},
		{"taskmeta", "arn container fault"},
	}},
	{"2 doors: each the only importer of its library", []row{
		{"attest", "netns"},
		{"awssts", "fault grant secret"},
		{"cgroups", ""},
		{"durable", ""},
		{"engine/docker", "container fault secret"},
		{"engine/monitors", "container"},
		{"engine/podman", "container fault"},
		{"facts", "address diagnose fault netns secret"},
		{"hostimds", "instance"},
		{"instancerole", "address fault secret"},
		{"netns", ""},
		{"nft", "address netns"},
		{"readiness", ""},
		{"skl", ""},
		{"systemd", ""},
		{"terminal", ""},
	}},
	{"1 rules: values in, values out", []row{
		{"audit", "diagnose"},
		{"cdispec", "address fault ociedit"},
		{"config", "arn container fault instance policy"},
		{"envfile", "fault secret"},
		{"diagnose", ""},
		{"jsontext", ""},
		{"manual", ""},
		{"ociedit", "fault jsontext"},
		{"policy", "container"},
		{"table", ""},
	}},
	{"0 words: what we talk about", []row{
		{"address", ""},
		{"arn", ""},
		{"container", ""},
		{"doc", ""},
		{"fault", ""},
		{"grant", "arn"},
		{"instance", ""},
		{"secret", ""},
	}},
	{"the lab: a simulated EC2 instance, in none of the other programs", []row{
		{"lab/cli", "fault lab/cloud lab/ec2 lab/engine/ocirun lab/scenario lab/world"},
		{"lab/world", "container fault lab/cloud lab/ec2 lab/engine"},
		{"lab/scenario", "container lab/ec2 lab/probe/report"},
		{"lab/engine", "container netns lab/ec2 lab/engine/ocirun"},
		{"lab/engine/ocirun", "container"},
		{"lab/ec2", "address container netns lab/ec2/engineroot lab/ec2/leftover"},
		{"lab/ec2/engineroot", ""},
		{"lab/ec2/leftover", ""},
		{"lab/cloud", "lab/iam lab/imds lab/s3 lab/sts"},
		{"lab/imds", ""},
		{"lab/sts", "arn lab/iam lab/sigv4"},
		{"lab/s3", "lab/iam lab/sigv4"},
		{"lab/iam", "arn secret"},
		{"lab/sigv4", ""},
		{"lab/probe", "lab/probe/report"},
		{"lab/probe/report", ""},
	}},
	{"tests and tools", []row{
		{"archtest", ""},
		{"testkit", ""},
		{"testkit/actor", "netns testkit"},
		{"test/bench", "address container control netns lab/cloud lab/ec2 lab/engine/ocirun"},
		{"test/bench/fetch", ""},
		{"test/conformance", ""},
		{"test/integration", ""},
		{"test/levels", ""},
		{"test/systemd", ""},
	}},
}

// door names the packages that may import a library, in code that is not a test. A library is named by its path's
// beginning.
type door struct {
	library  string
	packages string
}

// doors has a row for every library in go.mod that code other than tests may import at all.
var doors = []door{
	{"github.com/aws/", "awssts hostimds lab/probe"},
	{"github.com/cilium/ebpf", "skl testkit"},
	{"github.com/fsnotify/fsnotify", "cgroups"},
	{"github.com/google/nftables", "nft"},
	{"github.com/mdlayher/netlink", "nft"},
	{"github.com/containerd/errdefs", "engine/docker"},
	{"github.com/coreos/go-systemd/", "systemd"},
	{"github.com/cpuguy83/go-md2man/", "manual"},
	{"github.com/moby/moby/", "engine/docker"},
	{"github.com/opencontainers/runtime-spec", "lab/engine lab/engine/ocirun"},
	{"github.com/rclone/gofakes3", "lab/s3"},
	{"github.com/rogpeppe/go-internal/diff", "setup"},
	{"github.com/spf13/", "cli lab/cli"},
	{"github.com/vishvananda/netlink", "netns lab/ec2 lab/engine"},
	{"go.yaml.in/yaml/", "config"},
	{"golang.org/x/sys/unix", "attest control engine/monitors facts hook netns nft readiness shim skl testkit lab/ec2 lab/ec2/engineroot lab/engine lab/engine/ocirun " +
		"lab/imds terminal test/bench"},
	{"golang.org/x/time/", "broker egress"},
}

// reveals are the packages where a secret's text comes out: endpoint writes the bytes a container is answered with,
// agent keeps the key of IMDS tokens, control hands credentials to root at the command line and envfile writes them
// there, facts sends a process's own token to its own endpoint, hostrole puts the token of an endpoint into a command's environment, instancerole shows its session token to the
// service that gave it, and the lab checks signatures and answers for AWS.
var reveals = []string{
	"agent", "control", "endpoint", "envfile", "facts", "hostrole", "instancerole", "lab/cloud", "lab/iam", "lab/s3", "lab/sts",
}

// neverInRuntime may not be in taskrole-runtime, which runs at every start of a container: nothing slow to load,
// nothing large, nothing that can reach a network.
var neverInRuntime = []string{
	"crypto/tls", "github.com/", "go.yaml.in/", "net/http", "tags.cncf.io/", "taskrole/lab/",
}
