# What stands between @s is filled in by make package.
class Fairlead < Formula
  desc "Names and routes to containers, whatever VM their engine runs in"
  homepage "https://github.com/fairlead-dev/fairlead"
  version "@VERSION@"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://github.com/fairlead-dev/fairlead/releases/download/@TAG@/fairlead-@TAG@-darwin-arm64.tar.gz"
      sha256 "@darwin-arm64@"
    end
    on_intel do
      url "https://github.com/fairlead-dev/fairlead/releases/download/@TAG@/fairlead-@TAG@-darwin-amd64.tar.gz"
      sha256 "@darwin-amd64@"
    end
  end
  on_linux do
    on_arm do
      url "https://github.com/fairlead-dev/fairlead/releases/download/@TAG@/fairlead-@TAG@-linux-arm64.tar.gz"
      sha256 "@linux-arm64@"
    end
    on_intel do
      url "https://github.com/fairlead-dev/fairlead/releases/download/@TAG@/fairlead-@TAG@-linux-amd64.tar.gz"
      sha256 "@linux-amd64@"
    end
  end

  def install
    bin.install "fairlead"
    bash_completion.install "completions/fairlead.bash" => "fairlead"
    zsh_completion.install "completions/_fairlead"
    fish_completion.install "completions/fairlead.fish"
  end

  def caveats
    <<~EOS
      Routes and names need root. Either of these runs fairlead now and at each boot:
        sudo fairlead install               (a copy of it that only root can change)
        sudo brew services start fairlead   (this very file, which your account can change)
    EOS
  end

  service do
    run [opt_bin/"fairlead", "run"]
    require_root true
    keep_alive successful_exit: false
    process_type :interactive
    log_path var/"log/fairlead.log"
    error_log_path var/"log/fairlead.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/fairlead version")
    assert_match "fairlead's settings", shell_output("#{bin}/fairlead config init")
  end
end
