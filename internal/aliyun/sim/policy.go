package sim

import (
	"path"
	"strings"
)

// authorize checks that the key may call the action.
func (c *Cloud) authorize(in input, version, name string) error {
	allowed, limited := c.cfg.Policies[c.identity(in.text("AccessKeyId"))]
	if !limited {
		return nil
	}
	product := map[string]string{ecsVersion: "ecs", vpcVersion: "vpc", pvtzVersion: "pvtz"}[version]
	for _, pattern := range allowed {
		if ok, err := path.Match(pattern, product+":"+name); ok && err == nil {
			return nil
		}
	}
	return refuse(codeForbidden, "User not authorized to operate on the specified resource, or this API doesn't support RAM. Action: %s:%s", product, name)
}

// identity is whose policy holds for a key: the key's own, or that of the role it is a temporary key of.
func (c *Cloud) identity(keyID string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[keyID]
	switch {
	case s == nil:
		return keyID
	case s.instance != "":
		return c.cfg.RAMRole
	}
	_, role, _ := strings.Cut(c.cfg.OIDC.RoleARN, ":role/")
	return role
}
