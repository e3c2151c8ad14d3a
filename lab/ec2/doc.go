// Package ec2 is a simulated EC2 instance: two network namespaces with a veth pair between them, and a container
// engine of its own inside.
//
// The namespace "aws" holds 169.254.169.254 and a services address, and serves there what it is handed (the
// handlers of lab/cloud). The namespace "instance" is the machine that a user would have rented. It routes its
// containers' packets, so that the hop limit of the metadata service's answers ends where it ends on EC2.
// NewDocker starts a private Docker daemon in it, either this machine's or one in a root file system of its own.
//
// It refuses to touch the machine's own network: no interface, address, route, packet filter rule or sysctl outside
// its own two namespaces, and no engine that it did not start. The namespaces have no names, so the kernel frees
// them with the last process inside. It knows nothing of taskrole's agent; whoever uses it starts that with
// Instance.Start. It is separate from lab/cloud because that needs neither root nor Linux.
package ec2
