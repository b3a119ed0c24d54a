package autopath

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// The budgets of searches are about metrics that its series have.
func TestBudgets(t *testing.T) {
	t.Parallel()
	series := (&bed{}).all()
	if err := measure.BudgetsNameSeries("../budgets.yaml", Benchmark().Name, series); err != nil {
		t.Error(err)
	}
}

// A list in pages has every pod once, each with an address of its own, and leads to a watch of what comes after it.
func TestPages(t *testing.T) {
	t.Parallel()
	const pods = 1001
	client := netip.MustParseAddr("10.1.2.3")
	a, err := newAPI(large(pods, client))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(a)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(server.Close)
	addresses, pages, version, next := map[string]string{}, 0, "", ""
	for more := true; more; more = next != "" {
		var page corev1.PodList
		decodeFirst(t, server.URL+"/api/v1/pods?limit=500&continue="+next, &page)
		pages++
		for _, p := range page.Items {
			addresses[p.Status.PodIP] = p.Namespace
		}
		next, version = page.Continue, page.ResourceVersion
	}
	if len(addresses) != pods || pages != 3 || addresses[client.String()] != dnslab.Namespace {
		t.Errorf("%d addresses on %d pages, the client is in %q; want %d on 3, %s", len(addresses), pages, addresses[client.String()], pods, dnslab.Namespace)
	}
	if err := a.Put(podOf(pods, netip.MustParseAddr("10.1.2.4"))); err != nil {
		t.Fatal(err)
	}
	var event struct{ Object corev1.Pod }
	decodeFirst(t, server.URL+"/api/v1/pods?watch=true&limit=500&resourceVersion="+version, &event)
	if got := event.Object.Status.PodIP; got != "10.1.2.4" {
		t.Errorf("the first event is of the pod at %q, want the new one", got)
	}
}

// decodeFirst reads the first JSON document that there is at a URL.
func decodeFirst(t *testing.T, url string, into any) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// What is no page comes from the API in memory.
func TestNoPage(t *testing.T) {
	t.Parallel()
	a, err := newAPI(large(3, netip.MustParseAddr("10.1.2.3")))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/api/v1/pods": 3, "/api/v1/services?limit=500": 1, "/api/v1/pods?limit=2": 2} {
		w := httptest.NewRecorder()
		a.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		var list struct {
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Items) != want {
			t.Errorf("%s: %d items, %v, want %d", path, len(list.Items), err, want)
		}
	}
}

// A contender's Corefile is its own, and only those with autopath have it.
func TestCorefiles(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range programs() {
		text := p.corefile("http://127.0.0.1:1")
		if seen[text] {
			t.Errorf("%s has the Corefile of another", p.name)
		}
		seen[text] = true
		if has := strings.Contains(text, "autopath @kubernetes"); has != (p.questions == searched) {
			t.Errorf("%s: autopath is %t in\n%s", p.name, has, text)
		}
	}
}
