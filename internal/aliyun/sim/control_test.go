package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A remote drives a cloud as another process does.
type remote struct {
	*caller
	url string
}

func newRemote(t *testing.T, change func(*Config)) *remote {
	t.Helper()
	cloud := newCloud(t, change)
	server := httptest.NewServer(cloud.Handler())
	t.Cleanup(server.Close)
	return &remote{caller: &caller{cloud: cloud}, url: server.URL}
}

func (r *remote) send(t *testing.T, method, path, text string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(answer))
}

// ask signs a call and sends it over the network; an error is a connection that was cut.
func (r *remote) ask(t *testing.T, action string, params map[string]string) (int, error) {
	t.Helper()
	in := r.params(ecsVersion, action, params)
	in["Signature"] = sign(stringToSign("GET", in), DefaultAccessSecret)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/?"+encode(in), nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{} // of its own: a cut connection must not be tried again
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func TestCallLog(t *testing.T) {
	t.Parallel()
	r := newRemote(t, nil)
	if status, err := r.ask(t, "CreateNetworkInterface", onPods("ClientToken", "t")); status != 200 || err != nil {
		t.Fatal(status, err)
	}
	if status, _ := r.ask(t, "DeleteNetworkInterface", with("NetworkInterfaceId", "eni-none")); status != 404 {
		t.Errorf("status %d", status)
	}
	r.cloud.Inject(Fault{Action: "CreateNetworkInterface", LoseAnswer: true})
	if status, err := r.ask(t, "CreateNetworkInterface", onPods()); err == nil {
		t.Errorf("an answer that is lost comes with %d", status)
	}
	if status, _ := r.ask(t, "DescribeInstances", with("SignatureNonce", "nonce-1", "SecurityToken", "secret")); status != 400 {
		t.Errorf("a replay: %d", status)
	}
	status, text := r.send(t, http.MethodGet, "/sim/calls", "")
	var calls []Call
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var call Call
		if err := json.Unmarshal(lines.Bytes(), &call); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	if status != 200 || len(calls) != 4 {
		t.Fatalf("%d: %s", status, text)
	}
	for i, want := range []string{
		"1 CreateNetworkInterface 1 simulated-key 200  false", "2 DeleteNetworkInterface 1 simulated-key 404 InvalidEniId.NotFound false",
		"3 CreateNetworkInterface 2 simulated-key 200  true", "4 DescribeInstances 0 simulated-key 400 SignatureNonceUsed false",
	} {
		c := calls[i]
		got := fmt.Sprint(c.Seq, " ", c.Action, " ", c.Number, " ", c.Key, " ", c.Status, " ", c.Code, " ", c.Lost)
		if got != want || c.Started.IsZero() || c.Ended.Before(c.Started) || c.RequestID == "" {
			t.Errorf("call %d is %s, want %s", i, got, want)
		}
	}
	if got := calls[0].Params; got["VSwitchId"] != DefaultPodVSwitch || got["ClientToken"] != "t" || got["Signature"] != "" {
		t.Errorf("parameters: %v", got)
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "Signature\"") {
		t.Errorf("the log has secrets: %s", text)
	}
	if _, text := r.send(t, http.MethodGet, "/sim/calls?after=1&action=CreateNetworkInterface", ""); strings.Count(text, "\n") != 0 || !strings.Contains(text, `"seq":3`) {
		t.Errorf("after 1, creations: %s", text)
	}
	if status, text := r.send(t, http.MethodGet, "/sim/calls?after=x", ""); status != 400 || text != `after: "x": use the seq of a call` {
		t.Errorf("%d %s", status, text)
	}
	if _, text := r.send(t, http.MethodGet, "/sim/enis", ""); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"NetworkInterfaceId"`) {
		t.Errorf("ENIs: %s", text)
	}
}

func TestCallLogIsBounded(t *testing.T) {
	t.Parallel()
	l := callLog{most: 10}
	for range 35 {
		l.add(Call{})
		if len(l.calls) > 10 || l.calls[len(l.calls)-1].Seq != l.seq {
			t.Fatalf("%d calls, the last is %d of %d", len(l.calls), l.calls[len(l.calls)-1].Seq, l.seq)
		}
	}
	c := newCloud(t, nil)
	c.log = l
	if got := c.CallLog(33); len(got) != 2 || got[0].Seq != 34 {
		t.Errorf("after 33: %+v", got)
	}
	if got := c.CallLog(35); len(got) != 0 {
		t.Errorf("after the last: %+v", got)
	}
}

func TestFaultsFromOutside(t *testing.T) {
	t.Parallel()
	r := newRemote(t, nil)
	status, text := r.send(t, http.MethodPost, "/sim/faults", `{"action":"DescribeInstances","call":2,"code":"InternalError"}`)
	if status != 201 {
		t.Fatal(status, text)
	}
	for i, want := range []int{200, 500, 200} {
		if got, err := r.ask(t, "DescribeInstances", nil); got != want || err != nil {
			t.Errorf("call %d: %d, %v; want %d", i+1, got, err, want)
		}
	}
	_, text = r.send(t, http.MethodPost, "/sim/faults", `{"hang":"after","times":-1}`)
	id := strings.TrimSuffix(strings.TrimPrefix(text, `{"id":"`), `"}`)
	answered := make(chan int)
	go func() { got, _ := r.ask(t, "DescribeInstances", nil); answered <- got }()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, list := r.send(t, http.MethodGet, "/sim/faults", ""); strings.Contains(list, `"hanging":1`) {
			break
		}
		if time.Since(start) > time.Minute {
			t.Fatal("nothing hangs")
		}
	}
	if status, text := r.send(t, http.MethodPost, "/sim/faults/"+id+"/release", ""); status != 204 {
		t.Error(status, text)
	}
	if got := <-answered; got != 200 {
		t.Errorf("released: %d", got)
	}
	if status, _ := r.send(t, http.MethodDelete, "/sim/faults/"+id, ""); status != 204 {
		t.Errorf("remove: %d", status)
	}
	if status, _ := r.send(t, http.MethodDelete, "/sim/faults/none", ""); status != 404 {
		t.Errorf("remove what is not there: %d", status)
	}
	status, text = r.send(t, http.MethodPost, "/sim/faults", `{"action":"Reboot","probability":2,"times":"x"}`)
	if status != 400 || text != `times: "x": use a whole number` {
		t.Errorf("%d %s", status, text)
	}
	_, text = r.send(t, http.MethodPost, "/sim/faults", `{"action":"Reboot","probability":2}`)
	for _, want := range []string{`code: "": set code, loseAnswer or hang`, `probability: "2": use a number from 0 to 1`, `action: "Reboot": use one of `} {
		if !strings.Contains(text, want) {
			t.Errorf("%s\nlacks %s", text, want)
		}
	}
}

func TestControlAccess(t *testing.T) {
	t.Parallel()
	for access, want := range map[ControlAccess][2]int{ControlLoopback: {200, 404}, ControlAnyone: {200, 200}, ControlNobody: {404, 404}} {
		c := newCloud(t, func(c *Config) { c.Control = access })
		for i, from := range []string{"127.0.0.1:9", "10.0.0.9:9"} {
			r := httptest.NewRequest(http.MethodGet, "/sim/calls", nil)
			r.RemoteAddr = from
			w := httptest.NewRecorder()
			if c.Handler().ServeHTTP(w, r); w.Code != want[i] {
				t.Errorf("access %d from %s: %d, want %d", access, from, w.Code, want[i])
			}
		}
	}
}

func TestClockFromOutside(t *testing.T) {
	t.Parallel()
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRemote(t, func(c *Config) { c.Clock = NewManualClock(start, false) })
	if status, text := r.send(t, http.MethodPost, "/sim/clock", `{"advance":"90m"}`); status != 200 || text != `{"now":"2030-01-01T01:30:00Z"}` {
		t.Error(status, text)
	}
	for _, bad := range []string{`{"advance":"-1s"}`, `{"advance":1}`, `{}`, `{"advnace":"1s"}`} {
		if status, text := r.send(t, http.MethodPost, "/sim/clock", bad); status != 400 || !strings.Contains(text, "adv") {
			t.Errorf("%s: %d %s", bad, status, text)
		}
	}
	if status, _ := newRemote(t, nil).send(t, http.MethodPost, "/sim/clock", `{"advance":"1s"}`); status != 409 {
		t.Errorf("the machine's clock: %d", status)
	}
}

// Everybody in a VPC asks the same address; who is not in it names the instance in the path.
func TestMetadataService(t *testing.T) {
	t.Parallel()
	r := newRemote(t, func(c *Config) {
		*c = DualStackConfig()
		c.RAMRole = ""
		c.RateLimits = []RateLimit{{Action: metadataCalls, PerMinute: 1, Burst: 13}}
	})
	var macs []string
	for _, id := range []string{"i-1", "i-2"} {
		_, e, err := r.cloud.RunInstance(t.Context(), InstanceSpec{ID: id, Type: "ecs.sim.large", VSwitchID: DefaultNodeVSwitch, IPv6s: len(macs) * 2})
		if err != nil {
			t.Fatal(err)
		}
		macs = append(macs, e.MAC)
	}
	read := func(key string) string {
		t.Helper()
		status, text := r.send(t, http.MethodGet, key, "")
		if status != 200 {
			return fmt.Sprint(status)
		}
		return text
	}
	base := "/instances/i-2/latest/meta-data/"
	mac := base + "network/interfaces/macs/" + macs[1] + "/"
	for key, want := range map[string]string{
		"/latest/meta-data/instance-id": "404", base + "instance-id": "i-2", mac + "ipv6s": "[2001:db8:10::1,2001:db8:10::2]",
		mac + "ipv6-gateway": "2001:db8:10:0:ffff:ffff:ffff:fffd", mac + "vswitch-ipv6-cidr-block": "2001:db8:10::/64",
		"/instances/i-1/latest/meta-data/network/interfaces/macs/" + macs[0] + "/ipv6s": "404", mac + "ipv4-prefixes": "404",
		base + "ram/security-credentials/": "404", "/instances/i-3/latest/meta-data/instance-id": "404", base + "eipv4": "404",
		base + "network/interfaces/macs/": macs[1] + "/",
	} {
		if got := read(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	r.cloud.Inject(Fault{Action: metadataCalls, Code: "busy", HTTPStatus: 503})
	r.cloud.Inject(Fault{Code: "InternalError", Times: -1}) // meets the API alone
	if got := read(base + "instance-id"); got != "503" {
		t.Errorf("with a fault: %s", got)
	}
	if got := read(base + "instance-id"); got != "i-2" {
		t.Errorf("after the fault: %s", got)
	}
	if got := read(base + "instance-id"); got != "429" {
		t.Errorf("one too many: %s", got)
	}
}
