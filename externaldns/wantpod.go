package externaldns

import "github.com/nearpath/nearpath/internal/cluster"

// askPod publishes pods that are ready and stay: one that is being deleted may lose its address to another at any time.
func (r *wantRules) askPod(s *cluster.Snapshot, name cluster.Name) *asker {
	pod := s.Pod(name)
	if pod == nil || !pod.Ready || pod.Terminating || pod.Ended() || len(pod.Addrs) == 0 || r.silent(pod.Annotations) {
		return nil
	}
	a := r.asker(s, cluster.Pods, cluster.Meta{
		Name: pod.Name, UID: pod.UID, Created: pod.Created, Labels: pod.Labels, Annotations: pod.Annotations,
	})
	if !a.admitted() {
		return nil
	}
	a.urgent = !pod.HostNetwork
	own := append(a.annotated("internal-hostname"), a.templated(a.asks("internal-hostname", "hostname"))...)
	outer := a.annotated("hostname")
	if a.leadToTargets(append(own, outer...)) {
		return a
	}
	a.lead(own, pod.Addrs)
	if !pod.HostNetwork {
		a.lead(outer, pod.Addrs)
		return a
	}
	if len(outer) == 0 {
		return a
	}
	a.need(cluster.Nodes, cluster.Name{Name: pod.Node})
	if node := s.Node(pod.Node); node != nil {
		a.lead(outer, a.nodeAddrs([]*cluster.Node{node}))
	}
	return a
}
