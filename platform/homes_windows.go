package platform

import (
	"os"

	"golang.org/x/sys/windows"
)

func callersHome() string {
	dir, _ := os.UserHomeDir()
	return dir
}

// consoleHome is the profile of the user at the screen. Only LocalSystem, as which the service runs, may ask for it.
// https://learn.microsoft.com/windows/win32/api/wtsapi32/nf-wtsapi32-wtsqueryusertoken
func consoleHome() string {
	var token windows.Token
	if err := windows.WTSQueryUserToken(windows.WTSGetActiveConsoleSessionId(), &token); err != nil {
		return ""
	}
	defer token.Close()
	dir, err := token.GetUserProfileDirectory()
	if err != nil {
		return ""
	}
	return dir
}
