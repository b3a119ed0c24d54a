// Package e2e holds tests of the whole of nearpath on a real cluster: a control plane and kubelets on one machine, whose
// network interfaces are ENIs of a simulated VPC, with nearpath as the network and nothing else for Services.
package e2e
