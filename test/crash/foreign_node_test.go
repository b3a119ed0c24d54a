//go:build node

package crash

import (
	"net/http/httptest"
	"testing"

	"github.com/nearpath/nearpath/internal/aliyun"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
)

// foreign makes ENIs that look ever more like the pool's, and returns everything in the cloud that is not the pool's.
func foreign(t *testing.T, cloud *sim.Cloud, instance string) []aliyun.ENI {
	t.Helper()
	server := httptest.NewServer(cloud.Handler())
	defer server.Close()
	client, err := aliyun.NewClient(aliyun.Config{
		RegionID: sim.DefaultRegion, Endpoint: server.URL,
		Credentials: aliyun.StaticCredentials{AccessKeyID: sim.DefaultAccessKey, AccessKeySecret: sim.DefaultAccessSecret},
	})
	ok(t, err)
	for _, tags := range []map[string]string{
		nil,
		{"nearpath": instance},
		{"nearpath": "other", tagInstance: "i-other", tagIntent: "0123"},
	} {
		_, err := client.CreateENI(t.Context(), aliyun.CreateENI{
			VSwitchID: sim.DefaultPodVSwitch, SecurityGroupIDs: []string{sim.DefaultSecurityGroup}, Tags: tags,
		})
		ok(t, err)
	}
	return cloud.ENIs()
}
