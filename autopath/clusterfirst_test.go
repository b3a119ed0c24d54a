package autopath

import "testing"

func TestClusterScope(t *testing.T) {
	t.Parallel()
	c := Cluster{Domain: "cluster.local", Host: []string{"corp.test"}, Ndots: 5}
	const usual = "search shop.svc.cluster.local.(local) svc.cluster.local.(local) cluster.local.(local) corp.test."
	for name, tt := range map[string]struct {
		own  Own
		want string
	}{
		"nothing":           {Own{Ndots: -1}, usual + " ndots 5"},
		"ndots":             {Own{Ndots: 2}, usual + " ndots 2"},
		"its own and again": {Own{Search: []string{"own.test", "corp.test"}, Ndots: -1}, usual + " own.test. ndots 5"},
		"none":              {Own{None: true, Search: []string{"own.test"}, Ndots: -1}, "search own.test. ndots 1"},
		"none at all":       {Own{None: true, Ndots: -1}, "no search"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := c.Scope("shop", tt.own); err != nil || got.String() != tt.want {
				t.Errorf("%v, %v, want %s", got, err, tt.want)
			}
		})
	}
}
