package service

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/nearpath/nearpath/bench/measure"
	"github.com/nearpath/nearpath/internal/cluster"
)

// The budgets of Services are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	b := &bed{path: &contender{name: "nearpath", role: measure.Subject}}
	b.contenders = []*contender{b.path}
	series := b.all()
	if err := measure.BudgetsNameSeries("../budgets.yaml", Benchmark().Name, series); err != nil {
		t.Error(err)
	}
}

// What nearpath and kube-proxy are given is the same, and one Service of it answers.
func TestCluster(t *testing.T) {
	t.Parallel()
	n := size{Services: 20, Endpoints: 3}
	o := clusterOf(n)
	documents, err := o.documents()
	if err != nil {
		t.Fatal(err)
	}
	if want := 2 * (n.Services + 1); len(documents) != want {
		t.Errorf("%d documents, want %d", len(documents), want)
	}
	for _, d := range documents {
		var kind struct{ APIVersion, Kind string }
		if err := json.Unmarshal(d, &kind); err != nil || kind.APIVersion == "" || kind.Kind == "" {
			t.Errorf("document without its kind: %s, %v", d, err)
		}
	}
	c, err := convert(o)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, slice := range c.slices[:n.Services] {
		if c.services[i].ClusterIPs[0] != vip(i) || slice.Service != c.services[i].Name {
			t.Errorf("Service %d is %+v, its slice is of %s", i, c.services[i], slice.Service)
		}
		want := n.Endpoints
		if i == target(n.Services) {
			want = endpoints
		}
		if len(slice.Endpoints) != want {
			t.Errorf("Service %d has %d endpoints, want %d", i, len(slice.Endpoints), want)
		}
		for _, e := range slice.Endpoints {
			if seen[e.Addr.String()] || slices.Contains(served(), e.Addr) != (i == target(n.Services)) {
				t.Errorf("endpoint %s of Service %d is another's", e.Addr, i)
			}
			seen[e.Addr.String()] = true
		}
	}
	if flips := c.slices[n.Services]; flips.Service != (cluster.Name{Namespace: namespace, Name: flipping}) || len(flips.Endpoints) != 1 {
		t.Errorf("what flips is %+v", flips)
	}
}
