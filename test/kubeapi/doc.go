// Package kubeapi is as much of a Kubernetes API server as clients need that list, watch and elect: objects are in memory,
// and nobody acts on them. It streams lists to those that ask for it, refuses what a test says, and is quick with 100,000
// objects.
//
// It checks nothing: neither objects, selectors nor who asks. What depends on a real one is in test/kube.
package kubeapi
