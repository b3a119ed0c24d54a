package autopathtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Scenario is something that has gone wrong with autopath before.
type Scenario struct {
	Name string
	// Servers are the bodies of the server blocks it needs. Cluster makes the lines that serve the cluster of an API.
	Servers func(t *testing.T, cluster func(*API) string) []string
	// Play returns what clients see at these servers, to be compared with Want; Stock is what CoreDNS's own plugin makes of it.
	Play        func(t *testing.T, servers []string) string
	Want, Stock string
}

// The clients of the scenarios.
const (
	client    = "127.0.0.1"
	neighbour = "127.0.0.2"
)

const (
	www = "www.example.test."
	// always is how often clients ask where the stock plugin takes a pod by chance.
	always = 30
)

// Scenarios are in no order. All of them run in one process, whose servers are started together.
func Scenarios() []Scenario {
	return []Scenario{reused(), twoNames(), replicas(), hostNetwork(), leak()}
}

const external = "\n\thosts {\n\t\t192.0.2.1 www.example.test\n\t\tfallthrough\n\t}\n"

// from is the question that begins a namespace's search for www.
func from(namespace string) string { return www + namespace + ".svc.cluster.local." }

// all is an outcome if it comes every time, else "not always" it.
func all(want string, times int, ask func() string) string {
	for range times {
		if got := ask(); got != want {
			return "not always " + want
		}
	}
	return want
}

// known waits until the server searches for the neighbour, and with it knows the pods of its API.
func known(t *testing.T, server string) {
	t.Helper()
	Until(t, www, func() string { return Lookup(t, neighbour, server, from("known"), dns.TypeA) })
}

// reused is coredns/coredns#2842: an address of a pod that has ended, and that the API still shows, is given to a pod of
// another namespace.
func reused() Scenario {
	return Scenario{
		Name: "coredns/coredns#2842, a reused address",
		Servers: func(t *testing.T, cluster func(*API) string) []string {
			t.Helper()
			ended := Running("ended", "shop", client)
			ended.Status.ContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
			return []string{cluster(StartAPI(t, ended, Running("next", "blue", client), Running("known", "known", neighbour))) + external}
		},
		Play: func(t *testing.T, servers []string) string {
			t.Helper()
			known(t, servers[0])
			own := all(www, always, func() string { return Lookup(t, client, servers[0], from("blue"), dns.TypeA) })
			others := all("NXDOMAIN", always, func() string { return Lookup(t, client, servers[0], from("shop"), dns.TypeA) })
			return own + " of its own search, " + others + " of the other"
		},
		Want:  "www.example.test. of its own search, NXDOMAIN of the other",
		Stock: "not always www.example.test. of its own search, not always NXDOMAIN of the other",
	}
}

// twoNames is coredns/coredns#3765: A comes from one name of the search and AAAA from another, because a server denies the
// name when it has no record of the type.
func twoNames() Scenario {
	return Scenario{
		Name: "coredns/coredns#3765, A and AAAA of two names",
		Servers: func(t *testing.T, _ func(*API) string) []string {
			t.Helper()
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := os.WriteFile(path, []byte("search a.test b.test\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"\tautopath " + path + "\n\ttemplate IN AAAA a.test {\n\t\trcode NXDOMAIN\n\t}\n\thosts {\n\t\t192.0.2.1 db.x.a.test\n" +
				"\t\t2001:db8::2 db.x.b.test\n\t}\n"}
		},
		Play: func(t *testing.T, servers []string) string {
			t.Helper()
			const name = "db.x.a.test."
			return "A " + Lookup(t, client, servers[0], name, dns.TypeA) + ", AAAA " + Lookup(t, client, servers[0], name, dns.TypeAAAA)
		},
		Want:  "A NOERROR, AAAA NXDOMAIN", // what the name itself has, and the client goes on
		Stock: "A NOERROR, AAAA db.x.b.test.",
	}
}

// replicas is coredns/coredns#7179: of a pod that has just begun one replica knows and the other does not yet. The A that one
// denies and the AAAA that the other has nothing for end the client's search with nothing.
func replicas() Scenario {
	return Scenario{
		Name: "coredns/coredns#7179, replicas that disagree",
		Servers: func(t *testing.T, cluster func(*API) string) []string {
			t.Helper()
			begins := Running("begins", "shop", client)
			now := metav1.NewTime(time.Now().Add(time.Minute)) // for longer than the test
			begins.Status.StartTime = &now
			other := Running("known", "known", neighbour)
			return []string{cluster(StartAPI(t, other)) + external, cluster(StartAPI(t, begins, other)) + external}
		},
		Play: func(t *testing.T, servers []string) string {
			t.Helper()
			for _, s := range servers {
				known(t, s)
			}
			return fmt.Sprintf("A %s, AAAA %s", Lookup(t, client, servers[0], from("shop"), dns.TypeA),
				Lookup(t, client, servers[1], from("shop"), dns.TypeAAAA))
		},
		Want:  "A NXDOMAIN, AAAA NXDOMAIN",
		Stock: "A NXDOMAIN, AAAA NOERROR",
	}
}

// hostNetwork is coredns/coredns#7178: pods of several namespaces have the node's address.
func hostNetwork() Scenario {
	return Scenario{
		Name: "coredns/coredns#7178, pods in the host network",
		Servers: func(t *testing.T, cluster func(*API) string) []string {
			t.Helper()
			pods := []*corev1.Pod{Running("a", "shop", client), Running("b", "blue", client)}
			for _, p := range pods {
				p.Spec.HostNetwork = true
			}
			return []string{cluster(StartAPI(t, append(pods, Running("known", "known", neighbour))...)) + external}
		},
		Play: func(t *testing.T, servers []string) string {
			t.Helper()
			known(t, servers[0])
			return all("NXDOMAIN", always, func() string { return Lookup(t, client, servers[0], from("shop"), dns.TypeA) })
		},
		Want:  "NXDOMAIN",
		Stock: "not always NXDOMAIN",
	}
}

// leak is coredns/coredns#1139: what one namespace's search found is another's answer to the same question. The stock
// server has since put the cache behind autopath.
func leak() Scenario {
	return Scenario{
		Name: "coredns/coredns#1139, another namespace's search",
		Servers: func(t *testing.T, cluster func(*API) string) []string {
			t.Helper()
			return []string{cluster(StartAPI(t, Running("a", "shop", client), Running("known", "known", neighbour))) + "\n\tcache 30" + external}
		},
		Play: func(t *testing.T, servers []string) string {
			t.Helper()
			known(t, servers[0])
			own := Lookup(t, client, servers[0], from("shop"), dns.TypeA)
			return own + " for the pod that searches, " + Lookup(t, neighbour, servers[0], from("shop"), dns.TypeA) + " for another"
		},
		Want:  "www.example.test. for the pod that searches, NXDOMAIN for another",
		Stock: "www.example.test. for the pod that searches, www.example.test. for another",
	}
}
