package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nearpath/nearpath/internal/cluster"
)

func zones(list ...string) func(*cluster.Endpoint) {
	return func(e *cluster.Endpoint) { e.ForZones = list }
}

func nodes(list ...string) func(*cluster.Endpoint) {
	return func(e *cluster.Endpoint) { e.ForNodes = list }
}

// TestSelectTopology: rows C1, C3 and C4.
func TestSelectTopology(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		zone           string
		endpoints      []cluster.Endpoint
		cluster, local []string
	}{
		"C3/this zone's": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b")), endpoint("10.0.0.3", zones("b", "a"))},
			[]string{"10.0.0.1:8080", "10.0.0.3:8080"}, nil,
		},
		"C3/a ready one without": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b")), endpoint("10.0.0.3")},
			[]string{"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"}, nil,
		},
		"C3/one without that is not ready": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b")), endpoint("10.0.0.3", draining)},
			[]string{"10.0.0.1:8080"}, nil,
		},
		"C3/none for this zone": {
			"c", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b"))},
			[]string{"10.0.0.1:8080", "10.0.0.2:8080"}, nil,
		},
		"C3/only a terminating one for this zone": {
			"c", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("c"), draining)},
			[]string{"10.0.0.1:8080"}, nil,
		},
		"C3/a node without a zone": {
			"", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b"))},
			[]string{"10.0.0.1:8080", "10.0.0.2:8080"}, nil,
		},
		"C3/nodes before zones": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", nodes("node-a"), zones("b")), endpoint("10.0.0.2", nodes("node-b"), zones("a"))},
			[]string{"10.0.0.1:8080"}, nil,
		},
		"C3/zones when no node's hint is for this one": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", nodes("node-c"), zones("b")), endpoint("10.0.0.2", nodes("node-b"), zones("a"))},
			[]string{"10.0.0.2:8080"}, nil,
		},
		"C3/zones when one has none for nodes": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", nodes("node-a"), zones("b")), endpoint("10.0.0.2", zones("a"))},
			[]string{"10.0.0.2:8080"}, nil,
		},
		"C1/falling back has no topology": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", zones("a"), draining), endpoint("10.0.0.2", zones("b"), draining)},
			[]string{"10.0.0.1:8080", "10.0.0.2:8080"}, nil,
		},
		"C4/local list has no topology": {
			"a", []cluster.Endpoint{endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b"), local)},
			[]string{"10.0.0.1:8080"}, []string{"10.0.0.2:8080"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := thisNode
			node.Zone = tt.zone
			svc := webService()
			if tt.local != nil {
				svc = webService(nodePort(30080), externalLocal)
			}
			ports := Select(svc, []*cluster.EndpointSlice{slice(tt.endpoints...)}, node)
			if diff := cmp.Diff(backends(tt.cluster...), ports[0].Block.Cluster, equal); diff != "" {
				t.Errorf("cluster list differs (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(backends(tt.local...), ports[0].Block.Local, equal); diff != "" {
				t.Errorf("local list differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestZoneChange: row C4, the node's zone selects for every Service again.
func TestZoneChange(t *testing.T) {
	t.Parallel()
	m, store := newFakeMaps(), cluster.NewStore()
	inZone := func(zone string) {
		store.Update(func(e *cluster.Edit) {
			meta := cluster.Meta{Name: cluster.Name{Name: thisNode.Name}, Labels: map[string]string{"topology.kubernetes.io/zone": zone}}
			e.PutNode(&cluster.Node{Meta: meta})
		})
	}
	store.Update(func(e *cluster.Edit) {
		e.PutService(webService())
		e.PutSlice(slice(endpoint("10.0.0.1", zones("a")), endpoint("10.0.0.2", zones("b"))))
		e.MarkSynced()
	})
	inZone("a")
	r := idle(t, m)
	if o := syncFull(r, store); o.failure() != nil {
		t.Fatal(o)
	}
	wantServed(t, "in zone a", m, map[string]string{"10.96.0.1:80/6": "ClusterIP, cluster [10.0.0.1:8080]"})
	inZone("b")
	if o := r.sync(cluster.Change{Snapshot: store.Snapshot(), Nodes: []string{thisNode.Name}}); o.failure() != nil {
		t.Fatal(o)
	}
	wantServed(t, "in zone b", m, map[string]string{"10.96.0.1:80/6": "ClusterIP, cluster [10.0.0.2:8080]"})
}
